package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// NotifyName is a directory in the container's own that a caller of Create may make before: for the socket on which a container tells a
// service manager that it is ready.
const NotifyName = "notify"

// Discard removes the directory and the cgroup of a container that never came to be, because its creation was cut off before there was a
// state. It leaves alone what has a state, and directories with anything in them that creations don't make: layers, a pod that is arriving.
// It is no error when nothing is there.
func (r *Runtime) Discard(ctx context.Context, id string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	dir := r.Dir(id)
	if foreign, err := foreignEntry(dir); foreign || err != nil {
		return err
	}
	lock, err := lockFile(ctx, dir)
	if errors.Is(err, ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("discard container %s: %w", id, err)
	}
	defer lock.Close()
	if foreign, err := foreignEntry(dir); foreign || err != nil { // somebody else had the lock before
		return err
	}
	err = r.removeRemains(ctx, id, notedCgroup(lock))
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		return fmt.Errorf("discard container %s: %w", id, err)
	}
	return nil
}

// foreignEntry says whether a directory has something in it that a creation does not make before it writes the state.
func foreignEntry(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("discard container %s: %w", filepath.Base(dir), err)
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == lockName && e.Type().IsRegular(), name == gateName, name == NotifyName:
		case strings.HasPrefix(name, "."+stateName+"."):
		default:
			return true, nil
		}
	}
	return false, nil
}
