package cgroup

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Delete removes the group and its children from every hierarchy, and the parents that are zap's own (see Top) when nothing
// else is in them. A group that is busy, because its last process is still on its way out, is tried again until the end of
// ctx; the error then names what is left in it. Deleting what is not there succeeds.
func (c *Cgroup) Delete(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	for _, h := range c.trees {
		if err := removeTree(ctx, c.dir(h), 0); err != nil {
			if left := c.describe(anyState); left != "" {
				return fmt.Errorf("delete cgroup %s: %w (remain: %s)", c.path, err, left)
			}
			return fmt.Errorf("delete cgroup %s: %w", c.path, err)
		}
	}
	c.removeParents()
	return nil
}

// DeleteEmpty is Delete for a group that most likely has neither processes nor children, as after the end of a container: it looks at
// nothing, and says whether the group is gone from every hierarchy. What it leaves is for Kill and Delete.
func (c *Cgroup) DeleteEmpty() bool {
	for _, h := range c.trees {
		if err := unix.Rmdir(c.dir(h)); err != nil && err != unix.ENOENT {
			return false
		}
	}
	c.removeParents()
	return true
}

// removeTree removes a group, and its children first when it has any.
func removeTree(ctx context.Context, dir string, depth int) error {
	pause := 50 * time.Microsecond
	for {
		err := unix.Rmdir(dir)
		switch {
		case err == nil || err == unix.ENOENT:
			return nil
		case err != unix.EBUSY && err != unix.EINTR && err != unix.ENOTEMPTY:
			return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
		case depth > maxDepth:
			return fmt.Errorf("rmdir %s: more than %d levels", dir, maxDepth)
		}
		children, cerr := childDirs(dir)
		if cerr != nil && !gone(cerr) {
			return cerr
		}
		for _, child := range children {
			if err := removeTree(ctx, child, depth+1); err != nil {
				return err
			}
		}
		if len(children) > 0 && ctx.Err() == nil {
			continue
		}
		if ctx.Err() != nil {
			return fmt.Errorf("rmdir %s: %w (%w)", dir, err, context.Cause(ctx))
		}
		time.Sleep(pause)
		pause = min(pause*3/2, 5*time.Millisecond)
	}
}

// removeParents removes the empty parents of a group that are zap's own. The kernel refuses what is in use.
func (c *Cgroup) removeParents() {
	if !c.underTop() {
		return
	}
	for _, h := range c.trees {
		for parent := filepath.Dir(c.path); parent != "/"; parent = filepath.Dir(parent) {
			if unix.Rmdir(h.mount+parent) != nil {
				break
			}
		}
	}
}
