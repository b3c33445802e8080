package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/spec"
)

// Adopt registers a process tree that was made by somebody else, as CRIU restores one, as the running container id. Its first process is
// pid, and its processes are in cgroup cg already. A directory of the container's may be there; a state may not.
func (r *Runtime) Adopt(ctx context.Context, id string, b *spec.Bundle, pid int, cg *cgroup.Cgroup, extra json.RawMessage) (*Container, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	c := &creation{runtime: r, ctx: ctx, id: id, bundle: b, dir: r.Dir(id)}
	unlock, err := c.makeDir()
	if err != nil {
		return nil, fmt.Errorf("adopt container %s: %w", id, err)
	}
	defer unlock()
	start, _, err := startTime(pid)
	if err != nil {
		return nil, fmt.Errorf("adopt container %s: look at process %d: %w", id, pid, err)
	}
	state := &State{
		Version: stateVersion, ID: id, Status: specs.StateRunning, Pid: pid, StartTime: start, Created: time.Now().UTC(), Bundle: b,
		CgroupPath: cg.Path(), Cgroups: cg.Paths(), Annotations: b.Spec.Annotations, Owner: owner(), Pod: extra,
	}
	for i := range state.Stdio {
		state.Stdio[i], _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, i))
	}
	if err := writeState(c.dir, state); err != nil {
		return nil, fmt.Errorf("adopt container %s: %w", id, err)
	}
	return &Container{runtime: r, dir: c.dir, state: state}, nil
}
