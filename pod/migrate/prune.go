package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
)

// Kinds of what a prune removes.
const (
	PrunedLayer      = "layer"      // came with a pod
	PrunedReference  = "reference"  // says where a layer is on this host; the layer stays
	PrunedUnfinished = "unfinished" // a layer that was on its way when its move or a prune was cut off
)

// Pruned is something that a prune has removed, or would remove.
type Pruned struct {
	Kind   string `json:"kind"`
	Digest string `json:"digest,omitempty"`
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"` // on disk
}

// ErrArriving says that layers can't be told from those that pods on their way in will need.
var ErrArriving = errors.New("a pod is on its way in: try again when it has arrived")

// lockLayers keeps layers where they are, or, exclusively, lets nobody rely on one that no pod's state names. A target holds the lock from its
// look at what it has until the pod's state or its journal is all that is left of the arrival, so a prune never sees it in between. It waits
// until ctx ends.
func lockLayers(ctx context.Context, root string, exclusively bool) (*os.File, error) {
	how := unix.LOCK_SH
	if exclusively {
		how = unix.LOCK_EX
	}
	if err := os.MkdirAll(layersDir(root), 0o700); err != nil {
		return nil, err
	}
	dir, err := os.Open(layersDir(root))
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(dir.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock layers: %w", err), dir.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), dir.Close())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// pruneWithin is how long a prune waits for offers that are only being looked at.
const pruneWithin = 500 * time.Millisecond

// PruneLayers removes the lower layers below the root directory that no pod of this host uses, references included, and answers with what it
// has removed; with dry it only looks. While a pod is on its way in the error is ErrArriving, and nothing is removed.
func PruneLayers(ctx context.Context, rt *runtime.Runtime, dry bool) ([]Pruned, error) {
	if _, err := os.Stat(layersDir(rt.Root())); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	waiting, cancel := context.WithTimeoutCause(ctx, pruneWithin, ErrArriving)
	defer cancel()
	lock, err := lockLayers(waiting, rt.Root(), true)
	if err != nil {
		return nil, fmt.Errorf("prune layers: %w", err)
	}
	found, err := unusedLayers(rt)
	var aside []string // where each is then
	var errs []error
	for i := 0; i < len(found) && !dry; i++ {
		path, err := setAside(found[i])
		if err != nil {
			errs = append(errs, err)
			found = slices.Delete(found, i, i+1)
			i--
			continue
		}
		aside = append(aside, path)
	}
	errs = append(errs, err, lock.Close())
	// From here on nobody waits: a layer has lost its name in one step, its files may take their time.
	for i := range found {
		path := found[i].Path
		if !dry {
			path = aside[i]
		}
		found[i].Bytes, err = onDisk(path)
		if errs = append(errs, err); !dry {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return found, wrap("prune layers", errors.Join(errs...))
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// setAside takes from a layer its name, by which it is found. What it is called then is swept when a crash leaves it.
func setAside(p Pruned) (string, error) {
	if p.Kind == PrunedUnfinished {
		return p.Path, nil
	}
	dir, err := os.MkdirTemp(filepath.Dir(p.Path), tempPrefix)
	if err != nil {
		return "", err
	}
	if err := os.Rename(p.Path, filepath.Join(dir, "pruned")); err != nil {
		return "", errors.Join(err, os.Remove(dir))
	}
	return dir, nil
}

// unusedLayers lists what no pod needs. Nobody takes a pod in meanwhile.
func unusedLayers(rt *runtime.Runtime) ([]Pruned, error) {
	if err := arriving(rt); err != nil {
		return nil, err
	}
	used, err := usedLayers(rt)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(layersDir(rt.Root()))
	if err != nil {
		return nil, err
	}
	var found []Pruned
	for _, e := range entries {
		p := Pruned{Path: filepath.Join(layersDir(rt.Root()), e.Name())}
		name, isNote := strings.CutSuffix(e.Name(), ".json")
		digest := "sha256:" + name
		switch {
		case strings.HasPrefix(e.Name(), tempPrefix):
			p.Kind = PrunedUnfinished
		case !digestPattern().MatchString(digest):
			continue // not zap's
		case isNote:
			p.Kind, p.Digest = PrunedReference, digest
			if used[digest] || used[noted(p.Path)] {
				continue
			}
		default:
			p.Kind, p.Digest = PrunedLayer, digest
			if used[digest] || used[p.Path] {
				continue
			}
		}
		found = append(found, p)
	}
	return found, nil
}

// noted is the directory that a reference names.
func noted(path string) string {
	var l pod.Layer
	if data, err := os.ReadFile(path); err == nil {
		_ = json.Unmarshal(data, &l)
	}
	return l.Path
}

// arriving returns ErrArriving when there is a pod that has not arrived: its journal is its only trace, and does not say what it needs.
func arriving(rt *runtime.Runtime) error {
	entries, err := os.ReadDir(rt.Root())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || pod.CheckID(e.Name()) != nil {
			continue
		}
		j, err := OpenJournal(rt.Dir(e.Name()))
		if errors.Is(err, ErrNoJournal) {
			continue
		}
		if err != nil {
			return err
		}
		side := j.Side
		j.Close()
		if side != "target" {
			continue
		}
		if _, err := pod.Load(rt, e.Name()); errors.Is(err, runtime.ErrNotExist) { // else it runs, and its state says what it uses
			return fmt.Errorf("%w (%s)", ErrArriving, e.Name())
		}
	}
	return nil
}

// usedLayers is the digests and the paths of all layers that pods and containers of this host use.
func usedLayers(rt *runtime.Runtime) (map[string]bool, error) {
	all, err := rt.List()
	if err != nil {
		return nil, err // what a state that can't be read names is not known
	}
	used := map[string]bool{}
	for _, c := range all {
		state := c.State()
		var record pod.Record
		if len(state.Pod) > 0 {
			if err := json.Unmarshal(state.Pod, &record); err != nil {
				return nil, fmt.Errorf("read pod record of %s: %w", c.ID(), err)
			}
		}
		for _, l := range record.Layers {
			used[l.Digest], used[l.Path] = true, true
		}
		if b := state.Bundle; b != nil {
			if b.Overlay != nil {
				for _, path := range b.Overlay.Lower {
					used[path] = true
				}
			}
			if b.Spec != nil && b.Spec.Root != nil {
				used[b.RootPath()] = true
			}
		}
	}
	delete(used, "")
	return used, nil
}

// onDisk is what a file or directory takes on disk, in bytes.
func onDisk(path string) (int64, error) {
	var sum int64
	linked := map[uint64]bool{}
	err := filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil // somebody else is removing it
		}
		if err != nil {
			return fmt.Errorf("look at %s: %w", path, err)
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		sum += st.Blocks * 512
		return nil
	})
	return sum, err
}
