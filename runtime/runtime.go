package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Runtime is a directory of containers.
type Runtime struct {
	root string
	log  *slog.Logger
}

// Errors that callers tell apart. Their texts are those that container engines look for.
var (
	ErrNotExist   = errors.New("container does not exist")
	ErrExist      = errors.New("container with given ID already exists")
	ErrNotRunning = errors.New("container not running")
)

// New returns the runtime whose containers are in directory root, which Create makes when it is missing. A nil log is none.
func New(root string, log *slog.Logger) *Runtime {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if abs, err := filepath.Abs(root); err == nil {
		root = abs
	}
	return &Runtime{root: root, log: log}
}

// Root returns the directory of all containers, as an absolute path.
func (r *Runtime) Root() string { return r.root }

// Dir returns the directory of the container id, whether it is there or not.
func (r *Runtime) Dir(id string) string { return filepath.Join(r.root, id) }

// CheckID says whether id can be a container's name: letters, digits and "_+.-", and no path.
func CheckID(id string) error {
	bad := strings.IndexFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_+.-", r)
	})
	if id == "" || id == "." || id == ".." || bad >= 0 || len(id) > 255 {
		return fmt.Errorf("container name %q: only letters, digits and _+.- are allowed", id)
	}
	return nil
}

// Load reads a container's state. An error for one that is not there is ErrNotExist; one for a state that can't be read tells what to
// do, and nothing is removed.
func (r *Runtime) Load(id string) (*Container, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	state, err := readState(r.Dir(id), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load container %s: %w", id, ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("load container %s: %w; if it is beyond repair, remove %s", id, err, r.Dir(id))
	}
	return &Container{runtime: r, dir: r.Dir(id), state: state}, nil
}

// List returns all containers by name. Entries that can't be read are left out, left alone and named in the error, which comes with the
// containers that could be read.
func (r *Runtime) List() ([]*Container, error) {
	entries, err := os.ReadDir(r.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var all []*Container
	var bad []error
	for _, e := range entries {
		if !e.IsDir() || CheckID(e.Name()) != nil {
			continue
		}
		switch c, err := r.Load(e.Name()); {
		case err == nil:
			all = append(all, c)
		case !errors.Is(err, ErrNotExist): // a directory without a state is no container: the layers, a pod that is arriving
			bad = append(bad, err)
		}
	}
	return all, errors.Join(bad...)
}

// lockName is the file in the container's directory that is locked.
const lockName = "lock"

// lockWait bounds how long a call waits for another one on the same container.
const lockWait = 30 * time.Second

// lock takes the container's lock, which every change needs. Readers do without: the state file is replaced, never rewritten.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := lockFile(ctx, dir)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

// lockFile is lock; the file is to be closed.
func lockFile(ctx context.Context, dir string) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		f, err := tryLock(filepath.Join(dir, lockName))
		if f != nil {
			return f, nil
		}
		if err != nil {
			return nil, fmt.Errorf("lock container: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lock container: another command works on it: %w", ctx.Err())
		case <-time.After(pause):
		}
	}
}

// tryLock returns the locked file, or nothing when somebody else has the lock or has just removed it.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && sameFile(f, path) {
		return f, nil
	}
	f.Close()
	if err != nil && err != unix.EWOULDBLOCK && err != unix.EINTR {
		return nil, err
	}
	return nil, nil
}
