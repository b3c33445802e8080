package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/spec"
)

// Adopt registers a process tree that was made by somebody else, as CRIU restores one, as the running container id. Its first process is
// pid, and its processes are in cgroup cg already. A directory of the container's may be there; a state may not.
func (r *Runtime) Adopt(ctx context.Context, id string, b *spec.Bundle, pid int, cg *cgroup.Cgroup, extra json.RawMessage) (*Container, error) {
	a, err := r.PrepareAdoption(ctx, id, b, pid, cg, extra)
	if err != nil {
		return nil, err
	}
	return a.Commit()
}

// Adoption is a process tree that will be a container: its state is written and takes its place on the disk, but nobody sees it.
type Adoption struct {
	container *Container
	file      *os.File // the state, under another name
}

// PrepareAdoption does everything of Adopt that can fail for lack of room. The state is not on disk for good yet, which would take time.
func (r *Runtime) PrepareAdoption(ctx context.Context, id string, b *spec.Bundle, pid int, cg *cgroup.Cgroup, extra json.RawMessage) (*Adoption, error) {
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
	a := &Adoption{container: &Container{runtime: r, dir: c.dir, state: state}}
	if err := a.write(); err != nil {
		return nil, fmt.Errorf("adopt container %s: %w", id, err)
	}
	return a, nil
}

func (a *Adoption) write() error {
	data, err := json.Marshal(a.container.state)
	if err != nil {
		return err
	}
	if a.file, err = os.CreateTemp(a.container.dir, "."+stateName+".*"); err != nil {
		return err
	}
	if _, err := a.file.Write(data); err != nil {
		a.Cancel()
		return err
	}
	return nil
}

// Commit makes the container known. It is on disk when the call returns.
func (a *Adoption) Commit() (*Container, error) {
	c := a.container
	defer a.file.Close()
	err := a.file.Sync()
	if err == nil {
		err = os.Rename(a.file.Name(), filepath.Join(c.dir, stateName))
	}
	if err != nil {
		return nil, fmt.Errorf("adopt container %s: %w", c.ID(), err)
	}
	if d, err := os.Open(c.dir); err == nil { // the state is in place; this makes it durable
		_ = d.Sync()
		d.Close()
	}
	return c, nil
}

// Cancel takes back what PrepareAdoption wrote.
func (a *Adoption) Cancel() {
	a.file.Close()
	_ = os.Remove(a.file.Name())
}
