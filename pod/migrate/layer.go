package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"

	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
)

// Lower layers are kept below the root directory by their digest, as a
// directory that came over the wire or as a reference to a directory of this
// host (NAME.json) that `zap pod run --rootfs` was given.

var digestPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
})

func layersDir(root string) string { return filepath.Join(root, "layers") }

func layerPath(root, digest string) string {
	return filepath.Join(layersDir(root), strings.TrimPrefix(digest, "sha256:"))
}

// findLayer says where the layer with a digest is on this host; empty if it is
// nowhere. A reference counts only while its directory is as it was.
func findLayer(root, digest string) string {
	path := layerPath(root, digest)
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return path
	}
	data, err := os.ReadFile(path + ".json")
	if err != nil {
		return ""
	}
	var l pod.Layer
	if json.Unmarshal(data, &l) != nil || l.Digest != digest {
		return ""
	}
	if print, err := stream.Fingerprint(l.Path); err != nil || print != l.Fingerprint {
		return ""
	}
	return l.Path
}

// identifyLayers finds out the digests of a pod's lower layers. What was
// computed once, for this pod or another, is believed as long as the directory
// looks the same.
func identifyLayers(root string, lower []string, known []pod.Layer) ([]pod.Layer, error) {
	var layers []pod.Layer
	for i, path := range lower {
		print, err := stream.Fingerprint(path)
		if err != nil {
			return nil, err
		}
		l := pod.Layer{}
		if i < len(known) && known[i].Path == path && known[i].Digest != "" &&
			(known[i].Fingerprint == print || findLayer(root, known[i].Digest) == path) {
			l = known[i]
			l.Fingerprint = print
		} else if l, err = identifyLayer(root, path, print); err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	return layers, nil
}

// identifyLayer finds out the digest of a directory that the pod does not know, and notes it.
func identifyLayer(root, path, print string) (pod.Layer, error) {
	if l := notedLayer(root, path, print); l != nil {
		return *l, nil
	}
	digest, err := stream.Digest(path)
	if err != nil {
		return pod.Layer{}, err
	}
	index, err := stream.Scan(path)
	if err != nil {
		return pod.Layer{}, err
	}
	l := pod.Layer{Path: path, Digest: digest, Fingerprint: print, Size: index.Bytes()}
	return l, noteLayer(root, l)
}

// notedLayer is what was noted of a directory that still looks as it did then; nil if nothing was.
func notedLayer(root, path, print string) *pod.Layer {
	entries, _ := os.ReadDir(layersDir(root)) // none yet: nothing was
	for _, e := range entries {
		note := filepath.Join(layersDir(root), e.Name())
		if filepath.Ext(note) != ".json" {
			continue
		}
		data, err := os.ReadFile(note)
		var l pod.Layer
		if err == nil && json.Unmarshal(data, &l) == nil && l.Path == path && l.Fingerprint == print && layerPath(root, l.Digest)+".json" == note {
			return &l
		}
	}
	return nil
}

// noteLayer keeps a reference to a directory of this host, so that the pod
// need not bring its layer along when it comes back.
func noteLayer(root string, l pod.Layer) error {
	if filepath.Dir(l.Path) == layersDir(root) {
		return nil
	}
	if err := os.MkdirAll(layersDir(root), 0o700); err != nil {
		return err
	}
	// The fingerprint knows sizes and times, which a crash may leave without the content.
	if err := pod.SyncFiles(l.Path); err != nil {
		return err
	}
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return renameio.WriteFile(layerPath(root, l.Digest)+".json", data, 0o600)
}

// receiveLayer stores a lower layer, which must have the digest that it is
// announced with.
func receiveLayer(ctx context.Context, bulk *stream.Conn, root, digest string, wanted []string) error {
	if !digestPattern().MatchString(digest) || !slices.Contains(wanted, digest) {
		return fmt.Errorf("%s sent a layer called %q that was not asked for", bulk, digest)
	}
	if err := os.MkdirAll(layersDir(root), 0o700); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(layersDir(root), tempPrefix)
	if err != nil {
		return err
	}
	err = storeLayer(ctx, bulk, temp, digest, layerPath(root, digest))
	if err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	return nil
}

const tempPrefix = ".arriving-"

func storeLayer(ctx context.Context, bulk *stream.Conn, temp, digest, final string) error {
	if _, err := stream.Receive(ctx, bulk, temp, stream.Limits{}); err != nil {
		return err
	}
	got, err := stream.Digest(temp)
	if err != nil {
		return err
	}
	if got != digest {
		return fmt.Errorf("layer %s has the digest %s", digest, got)
	}
	// Whatever has this name is believed, also by moves after a crash of this host.
	if err := pod.SyncFiles(temp); err != nil {
		return err
	}
	err = os.Rename(temp, final)
	if err != nil && findLayer(filepath.Dir(filepath.Dir(final)), digest) != "" {
		return os.RemoveAll(temp) // another move brought it meanwhile
	}
	return err
}

// sweepLayers removes layers that were on their way in at a crash.
func sweepLayers(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), tempPrefix) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
