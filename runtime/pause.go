package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ErrNotPaused is Resume's error for a container that is not paused; callers look for its text.
var ErrNotPaused = errors.New("container not paused")

// Pause stops all processes of a container that runs or waits for its start, and returns when they have stopped. For one that has
// stopped, or is paused already, the error is ErrNotRunning.
func (c *Container) Pause(ctx context.Context) error {
	err := c.locked(ctx, func() error {
		if status := c.Status(); status != specs.StateRunning && status != specs.StateCreated {
			return ErrNotRunning
		}
		cg, err := c.Cgroup()
		if err != nil {
			return err
		}
		return cg.Freeze(ctx)
	})
	if err != nil {
		return fmt.Errorf("pause container %s: %w", c.ID(), err)
	}
	return nil
}

// Resume lets the processes of a paused container run again. For one that is not paused the error is ErrNotPaused.
func (c *Container) Resume(ctx context.Context) error {
	err := c.locked(ctx, func() error {
		if c.Status() != StatePaused {
			return ErrNotPaused
		}
		cg, err := c.Cgroup()
		if err != nil {
			return err
		}
		return cg.Thaw(ctx)
	})
	if err != nil {
		return fmt.Errorf("resume container %s: %w", c.ID(), err)
	}
	return nil
}

// Processes returns the pids of all processes in the container's cgroup, as the runtime sees them. When the cgroup is gone there are
// none.
func (c *Container) Processes() ([]int, error) {
	cg, err := c.Cgroup()
	if err == nil {
		var pids []int
		if pids, err = cg.Procs(); err == nil {
			return pids, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return nil, fmt.Errorf("list processes of container %s: %w", c.ID(), err)
}

// locked calls f with the container's lock held and its state fresh.
func (c *Container) locked(ctx context.Context, f func() error) error {
	unlock, err := lock(ctx, c.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.reload(); err != nil {
		return err
	}
	return f()
}
