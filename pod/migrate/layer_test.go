package migrate

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
)

// layer is a directory with a file, and its digest.
func layer(t *testing.T, text string) (dir, digest string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	digest, err := stream.Digest(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, digest
}

func identified(t *testing.T, root, dir string, known []pod.Layer) pod.Layer {
	t.Helper()
	layers, err := identifyLayers(root, []string{dir}, known)
	if err != nil || len(layers) != 1 {
		t.Fatalf("%v, %v", layers, err)
	}
	return layers[0]
}

// TestIdentifyLayers wants a layer to be known by its content, found by that on this host, and neither any more when it changes.
func TestIdentifyLayers(t *testing.T) {
	root := t.TempDir()
	dir, digest := layer(t, "hello")
	l := identified(t, root, dir, nil)
	if l.Digest != digest || l.Path != dir || l.Fingerprint == "" || l.Size != 5 {
		t.Errorf("%+v, want %s", l, digest)
	}
	if found := findLayer(root, digest); found != dir {
		t.Errorf("found in %q", found)
	}
	// What is known is believed as long as it looks the same: this digest is a lie that shows that nothing was read.
	lie := l
	lie.Digest = aDigest
	if got := identified(t, root, dir, []pod.Layer{lie}); got.Digest != aDigest {
		t.Errorf("it was read again: %+v", got)
	}
	// After a move back only the digest is known, and where it is.
	if got := identified(t, root, dir, []pod.Layer{{Path: dir, Digest: digest}}); got.Digest != digest || got.Fingerprint != l.Fingerprint {
		t.Errorf("%+v", got)
	}
	if got := identified(t, root, dir, []pod.Layer{{Path: dir, Digest: aDigest}}); got.Digest != digest {
		t.Errorf("a digest was believed that nothing speaks for: %+v", got)
	}
	// Another pod that uses the same directory need not read it either, nor believe what was noted of another.
	forged := l
	forged.Size = 77
	note, err := json.Marshal(forged)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(layerPath(root, digest)+".json", note, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := identified(t, root, dir, nil); got != forged {
		t.Errorf("another pod's layer was read again: %+v", got)
	}
	if other, otherDigest := layer(t, "hello, too"); identified(t, root, other, nil).Digest != otherDigest {
		t.Error("a layer has another one's digest")
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	if found := findLayer(root, digest); found != "" {
		t.Errorf("a layer that has changed was found in %q", found)
	}
	if got := identified(t, root, dir, []pod.Layer{l}); got.Digest == digest {
		t.Errorf("a layer that has changed has the old digest: %+v", got)
	}
	if _, err := identifyLayers(root, []string{"/nowhere/at/all"}, nil); err == nil {
		t.Error("a layer that is not there: no error")
	}
}

// TestFindLayer is given references that are none.
func TestFindLayer(t *testing.T) {
	root := t.TempDir()
	dir, digest := layer(t, "hello")
	good := identified(t, root, dir, nil)
	reference := layerPath(root, digest) + ".json"
	for name, change := range map[string]func(*pod.Layer){
		"of another digest":  func(l *pod.Layer) { l.Digest = aDigest },
		"without its prints": func(l *pod.Layer) { l.Fingerprint = "" },
		"to nowhere":         func(l *pod.Layer) { l.Path = "/nowhere/at/all" },
		"to a file":          func(l *pod.Layer) { l.Path = filepath.Join(dir, "file") },
	} {
		l := good
		change(&l)
		data, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(reference, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if found := findLayer(root, digest); found != "" {
			t.Errorf("%s: found in %q", name, found)
		}
	}
	if err := os.WriteFile(reference, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if found := findLayer(root, digest); found != "" {
		t.Errorf("no document: found in %q", found)
	}
}

// sendLayer sends a directory to receiveLayer as the layer with a digest.
func sendLayer(t *testing.T, root, dir, digest string, wanted []string) error {
	t.Helper()
	near, far := pair(t)
	index, err := stream.Scan(dir)
	if err != nil {
		t.Fatal(err)
	}
	received := make(chan error, 1)
	go func() {
		err := receiveLayer(context.Background(), far, root, digest, wanted)
		far.Close()
		received <- err
	}()
	_, _ = stream.Send(context.Background(), near, dir, index.All())
	near.Close()
	within(t, "receiving", func() { err = <-received })
	return err
}

func TestReceiveLayer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: gives files their owners")
	}
	root := t.TempDir()
	dir, digest := layer(t, "hello")
	for range 2 { // the second as if another move had brought it meanwhile
		if err := sendLayer(t, root, dir, digest, []string{aDigest, digest}); err != nil {
			t.Fatal(err)
		}
		if found := findLayer(root, digest); found != layerPath(root, digest) {
			t.Errorf("found in %q", found)
		}
	}
	for name, tt := range map[string]struct{ digest, want string }{
		"that was not asked for": {digest, "not asked for"}, "of another content": {aDigest, "has the digest"}, "called a path": {"sha256:../../../etc", "not asked for"},
		"called nothing": {"", "not asked for"},
	} {
		wanted := []string{aDigest, "sha256:../../../etc", ""}
		if err := sendLayer(t, t.TempDir(), dir, tt.digest, wanted); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("a layer %s: %v", name, err)
		}
	}
	names, err := os.ReadDir(layersDir(root))
	if err != nil || len(names) != 1 {
		t.Errorf("there are %v, %v", names, err)
	}
	// What came over the wire needs no reference to itself.
	l := identified(t, root, layerPath(root, digest), []pod.Layer{{Path: layerPath(root, digest), Digest: digest}})
	if l.Digest != digest {
		t.Errorf("%+v", l)
	}
	if names, err := os.ReadDir(layersDir(root)); err != nil || len(names) != 1 {
		t.Errorf("there are %v, %v", names, err)
	}
}
