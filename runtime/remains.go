package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/zap-migrate/zap/runtime/cgroup"
)

// maxNote bounds what is read of a note, in bytes: a path.
const maxNote = 4096

// noteCgroup writes into the container's lock which cgroup is about to be made: who finds a creation that was killed before it wrote a state
// knows it from there only. It is one line in a file that is open anyway.
func (c *creation) noteCgroup(path string) error {
	if _, err := c.lock.WriteAt([]byte(path+"\n"), 0); err != nil {
		return fmt.Errorf("note cgroup: %w", err)
	}
	return nil
}

// notedCgroup reads what noteCgroup has written; empty when there is nothing.
func notedCgroup(lock *os.File) string {
	data, _ := io.ReadAll(io.NewSectionReader(lock, 0, maxNote))
	line, _, whole := strings.Cut(string(data), "\n")
	if !whole {
		return ""
	}
	return line
}

// remainsWithin is how long the first process of a killed creation may take to find that out and end.
const remainsWithin = 2 * time.Second

// removeRemains removes the cgroup that a killed creation has made. It kills nobody: the creation's own process has ended with it, and who is
// in there otherwise belongs to a container that got the same cgroup later.
func (r *Runtime) removeRemains(ctx context.Context, id, path string) error {
	if path == "" {
		return nil
	}
	cg, err := cgroup.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	late := time.After(remainsWithin)
	for {
		if pids, err := cg.Procs(); err == nil && len(pids) == 0 && cg.DeleteEmpty() {
			return nil
		}
		select {
		case <-late:
			r.log.Warn("leave cgroup: it is in use", "container", id, "cgroup", path)
			return nil
		case <-ctx.Done():
			return fmt.Errorf("delete cgroup %s: %w", path, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
