package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Kill sends a signal to the container's first process, or with all to every process in its cgroup. For a container that has stopped the
// error is ErrNotRunning. SIGKILL goes to all as well when the container has no pid namespace of its own, in which the end of the first
// process would be that of the others; and a paused container is resumed to die.
func (c *Container) Kill(sig unix.Signal, all bool) error {
	if err := c.reload(); err != nil {
		return fmt.Errorf("kill container %s: %w", c.ID(), err)
	}
	status := c.Status()
	if all || sig == unix.SIGKILL && !c.ownsPids() {
		if err := c.signalAll(sig, status); err != nil {
			return fmt.Errorf("kill container %s: %w", c.ID(), err)
		}
		return nil
	}
	if status == specs.StateStopped {
		return fmt.Errorf("kill container %s: %w", c.ID(), ErrNotRunning)
	}
	if c.state.Status == specs.StateCreated && endsProcess(sig) {
		sig = unix.SIGKILL // the first process of a pid namespace is deaf to what it has no handler for, and has none yet
	}
	if err := c.signal(sig); err != nil {
		return fmt.Errorf("kill container %s: %w", c.ID(), err)
	}
	return c.thawKilled(sig, status)
}

// signalAll sends sig to every process in the cgroup. That they have gone is no error.
func (c *Container) signalAll(sig unix.Signal, status specs.ContainerState) error {
	cg, err := c.Cgroup()
	if errors.Is(err, fs.ErrNotExist) {
		if status == specs.StateStopped {
			return ErrNotRunning
		}
		return c.signal(sig)
	}
	if err == nil {
		err = cg.Signal(sig)
	}
	if err != nil {
		return err
	}
	return c.thawKilled(sig, status)
}

// ownsPids says whether the container has a pid namespace that was made for it.
func (c *Container) ownsPids() bool {
	l := c.state.Bundle.Spec.Linux
	return l != nil && makes(l, specs.PIDNamespace)
}

// signal sends sig to the first process and nobody else.
func (c *Container) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(c.state.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return ErrNotRunning
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !alive(c.state.Pid, c.state.StartTime) { // asked after the pidfd names the process for good
		return ErrNotRunning
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); errors.Is(err, unix.ESRCH) {
		return ErrNotRunning
	} else if err != nil {
		return err
	}
	return nil
}

// thawKilled lets a paused container die: in a frozen v1 cgroup not even SIGKILL is delivered.
func (c *Container) thawKilled(sig unix.Signal, status specs.ContainerState) error {
	if sig != unix.SIGKILL || status != StatePaused {
		return nil
	}
	cg, err := c.Cgroup()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return cg.Thaw(ctx)
}

// endsProcess says whether the default action of a signal is to end the process.
func endsProcess(sig unix.Signal) bool {
	switch sig {
	case 0, unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return false
	}
	return true
}

// Delete removes a container that has stopped, with its cgroup and its directory. With force, what still runs is killed first, and a
// container that is half made or half removed is removed as well.
func (c *Container) Delete(ctx context.Context, force bool) error {
	unlock, err := lock(ctx, c.dir)
	if err != nil {
		return fmt.Errorf("delete container %s: %w", c.ID(), err)
	}
	defer unlock()
	if err := c.delete(ctx, force); err != nil {
		return fmt.Errorf("delete container %s: %w", c.ID(), err)
	}
	return nil
}

func (c *Container) delete(ctx context.Context, force bool) error {
	if err := c.reload(); err != nil {
		return err
	}
	status := c.Status()
	if status != specs.StateStopped && status != specs.StateCreated && !force {
		return fmt.Errorf("cannot delete a container that is not stopped: %s (stop it, or use --force)", status)
	}
	if status != specs.StateStopped {
		if err := c.signal(unix.SIGKILL); err != nil && !errors.Is(err, ErrNotRunning) {
			return err
		}
	}
	cg, err := c.Cgroup()
	if err == nil && status == specs.StateStopped && c.state.SystemdUnit == "" && cg.DeleteEmpty() {
		cg = nil
	}
	if cg != nil {
		if err := cg.Kill(ctx); err != nil {
			return err
		}
	}
	if err := c.waitStopped(ctx); err != nil {
		return err
	}
	c.stopUnit(ctx)
	if cg != nil {
		if err := cg.Delete(ctx); err != nil {
			return err
		}
	}
	if err := c.state.RDT.remove(); err != nil {
		return fmt.Errorf("leave resource director: %w", err)
	}
	if err := detachRoot(c.state.Bundle, c.state.RootMount); err != nil {
		return err
	}
	if err := removeDir(c.dir); err != nil {
		return err
	}
	c.poststop(ctx)
	return nil
}

// waitStopped waits until the first process has ended.
func (c *Container) waitStopped(ctx context.Context) error {
	for pause := 50 * time.Microsecond; alive(c.state.Pid, c.state.StartTime); pause = min(2*pause, 10*time.Millisecond) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for process %d: %w", c.state.Pid, ctx.Err())
		case <-time.After(pause):
		}
	}
	return nil
}

// removeDir removes a container's directory, in which another command that wants the container may just make the file for its lock.
func removeDir(dir string) (err error) {
	for range 100 {
		if err = os.RemoveAll(dir); !errors.Is(err, unix.ENOTEMPTY) {
			break
		}
	}
	return err
}
