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
	for end := time.Now().Add(supervisorWithin); super.Alive(); {
		if time.Now().After(end) {
			_ = unix.Kill(super.Pid, unix.SIGKILL)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the pod's supervisor (pid %d): %w", super.Pid, context.Cause(ctx))
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}
