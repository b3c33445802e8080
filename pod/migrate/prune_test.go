package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
)

// digestOf is a digest that ends in a number.
func digestOf(n string) string { return "sha256:" + strings.Repeat("0", 64-len(n)) + n }

// storedLayer puts a layer below the root directory, as an arrival does.
func storedLayer(t *testing.T, root, digest string) string {
	t.Helper()
	path, temp := layerPath(root, digest), t.TempDir()
	if err := os.WriteFile(filepath.Join(temp, "file"), make([]byte, 5000), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(layersDir(root), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(temp, path); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return path
}

// prune prunes, which must work, and answers with the names of what went.
func prune(t *testing.T, rt *runtime.Runtime, dry bool) []string {
	t.Helper()
	removed, err := PruneLayers(t.Context(), rt, dry)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range removed {
		names = append(names, p.Kind+" "+filepath.Base(p.Path))
		if p.Kind == PrunedLayer && p.Bytes < 5000 {
			t.Errorf("%s takes %d bytes", p.Path, p.Bytes)
		}
		if _, err := os.Stat(p.Path); (err == nil) != dry {
			t.Errorf("%s: %v", p.Path, err)
		}
	}
	slices.Sort(names)
	return names
}

// TestPrune keeps what a pod's state names, by digest or path, and what is not zap's.
func TestPrune(t *testing.T) {
	rt, p := testPod(t, "web")
	root := rt.Root()
	byDigest, byPath, unused, elsewhere := digestOf("1"), digestOf("2"), digestOf("3"), digestOf("4")
	for _, digest := range []string{byDigest, byPath, unused} {
		storedLayer(t, root, digest)
	}
	notes := map[string]string{digestOf("5"): "/srv/used", elsewhere: "/srv/other"}
	for digest, path := range notes {
		data, err := json.Marshal(pod.Layer{Path: path, Digest: digest})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(layerPath(root, digest)+".json", data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{tempPrefix + "x", "somebody's"} {
		if err := os.MkdirAll(filepath.Join(layersDir(root), name, "y"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Update(func(r *pod.Record) {
		r.Layers = []pod.Layer{{Digest: byDigest}, {Path: layerPath(root, byPath)}, {Path: "/srv/used"}}
	}); err != nil {
		t.Fatal(err)
	}
	base := func(digest string) string { return strings.TrimPrefix(digest, "sha256:") }
	want := []string{PrunedLayer + " " + base(unused), PrunedReference + " " + base(elsewhere) + ".json", PrunedUnfinished + " " + tempPrefix + "x"}
	for _, dry := range []bool{true, true, false} {
		if got := prune(t, rt, dry); !slices.Equal(got, want) {
			t.Errorf("dry %v: %q, want %q", dry, got, want)
		}
	}
	if got := prune(t, rt, false); len(got) > 0 {
		t.Errorf("then %q", got)
	}
	entries, err := os.ReadDir(layersDir(root))
	if err != nil || len(entries) != 4 {
		t.Errorf("left is %v, %v", entries, err)
	}
	// The pod is gone, and with it every reason to keep a layer.
	if err := pod.RemoveDir(p.Dir()); err != nil {
		t.Fatal(err)
	}
	if got := prune(t, rt, false); len(got) != 3 {
		t.Errorf("without pods it removes %q", got)
	}
}

// TestPruneUnknown removes nothing when it can't know what a pod uses.
func TestPruneUnknown(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, rt *runtime.Runtime, dir string) error{
		"an arrived pod without state": func(t *testing.T, _ *runtime.Runtime, dir string) error {
			j, err := NewJournal(dir, header("target"))
			if err == nil {
				enter(t, j, Accepted, Receiving, Restoring, Prepared)
				err = j.Close()
			}
			return errors.Join(err, os.Remove(filepath.Join(dir, "state.json")))
		},
		"a state of another version": func(_ *testing.T, _ *runtime.Runtime, dir string) error {
			return os.WriteFile(filepath.Join(dir, "state.json"), []byte(`{"version":99}`), 0o600)
		},
		"a broken journal": func(_ *testing.T, _ *runtime.Runtime, dir string) error {
			return os.WriteFile(filepath.Join(dir, JournalName), []byte("{}\n"), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			rt, p := testPod(t, "web")
			path := storedLayer(t, rt.Root(), aDigest)
			if err := spoil(t, rt, p.Dir()); err != nil {
				t.Fatal(err)
			}
			removed, err := PruneLayers(t.Context(), rt, false)
			if err == nil || len(removed) > 0 {
				t.Errorf("it removed %v, %v", removed, err)
			}
			if errors.Is(err, ErrArriving) != (name == "an arrived pod without state") {
				t.Error(err)
			}
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestPruneWhileArriving prunes again and again while a target takes offers of pods whose layer is there: what it has told a source that
// it has stays until the pod has left again.
func TestPruneWhileArriving(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes detached file systems")
	}
	target := testTarget(t)
	root := target.Runtime.Root()
	over, ended := make(chan struct{}), make(chan struct{})
	stop := sync.OnceFunc(func() { close(over); <-ended })
	defer stop()
	var turn sync.Mutex // held: no prune
	var busy atomic.Int64
	pruned := 0
	go func() {
		defer close(ended)
		for {
			select {
			case <-over:
				return
			default:
			}
			turn.Lock()
			brief, cancel := context.WithTimeoutCause(context.Background(), pruneWithin/25, ErrArriving)
			removed, err := PruneLayers(brief, target.Runtime, false)
			cancel()
			turn.Unlock()
			switch {
			case errors.Is(err, ErrArriving):
				busy.Add(1)
			case err != nil:
				t.Error(err)
			}
			pruned += len(removed)
		}
	}()
	there := 0
	for i := range 40 {
		calm := i%4 == 0 // the offer comes when nobody prunes, else at any moment
		if calm {
			turn.Lock()
		}
		path := storedLayer(t, root, aDigest)
		v := target.visit(t, "alpha")
		v.send(t, frameOffer, validOffer(t, "web"))
		var a accept
		v.expect(t, frameAccept, &a)
		if calm {
			turn.Unlock()
			for gaveUp, end := busy.Load(), time.Now().Add(10*time.Second); busy.Load() == gaveUp && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
		}
		if len(a.Missing) == 0 {
			there++
			if _, err := os.Stat(filepath.Join(path, "file")); err != nil {
				t.Errorf("the target has no layer any more that it said it has: %v", err)
			}
		}
		v.Close()
		_ = v.end(t)
	}
	stop()
	t.Logf("the layer was there for %d of 40 offers; %d times a prune gave up, it removed %d layers", there, busy.Load(), pruned)
	if there < 10 || busy.Load() < 10 {
		t.Errorf("the layer was there for %d offers, %d prunes gave up", there, busy.Load())
	}
	storedLayer(t, root, aDigest)
	if got := prune(t, target.Runtime, false); len(got) != 1 {
		t.Errorf("then it removes %q", got)
	}
}
