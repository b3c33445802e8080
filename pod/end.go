package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/network"
)

// supervisorWithin is how long a supervisor has to put a dead pod away before
// it is ended itself.
const supervisorWithin = 10 * time.Second

// End kills the pod's processes, waits until its supervisor has put everything
// away, and removes what is left of it but its directory: the link, the cgroup.
// It can be repeated.
func (p *Pod) End(ctx context.Context) error {
	cg, err := p.Cgroup()
	switch {
	case errors.Is(err, os.ErrNotExist):
		cg = nil // the supervisor has removed it
	case err != nil:
		return err
	default:
		if err := cg.Kill(ctx); err != nil {
			return err
		}
	}
	if err := p.awaitSupervisor(ctx); err != nil {
		return err
	}
	if p.Record.Network != nil {
		if err := network.RemoveLink(p.Record.Network.HostLink); err != nil {
			return err
		}
	}
	if cg != nil {
		return cg.Delete(ctx)
	}
	return nil
}

// awaitSupervisor waits for the supervisor's end; one that hangs is killed.
func (p *Pod) awaitSupervisor(ctx context.Context) error {
	super := p.Record.Supervisor
	brief, cancel := context.WithTimeout(ctx, supervisorWithin)
	defer cancel()
	err := super.Wait(brief)
	if err != nil && brief.Err() != nil && ctx.Err() == nil {
		_ = unix.Kill(super.Pid, unix.SIGKILL)
		err = super.Wait(ctx)
	}
	if err != nil {
		return fmt.Errorf("wait for the pod's supervisor (pid %d): %w", super.Pid, err)
	}
	return nil
}

// Wait waits until the process has ended, or until ctx has, whose cause it returns then.
func (p Process) Wait(ctx context.Context) error {
	if !p.Alive() {
		return nil
	}
	fd, err := unix.PidfdOpen(p.Pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", p.Pid, err)
	}
	process := os.NewFile(uintptr(fd), "pidfd")
	defer process.Close()
	if !p.Alive() { // before the pidfd named it
		return nil
	}
	defer context.AfterFunc(ctx, func() { _ = process.SetReadDeadline(time.Unix(1, 0)) })()
	conn, err := process.SyscallConn()
	if err == nil {
		err = conn.Read(func(fd uintptr) bool {
			n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 // it has ended (pidfd_open(2))
		})
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}
