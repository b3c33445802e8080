package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/runtime/cgroup"
)

// Container is a container as its state file had it when it was loaded.
type Container struct {
	runtime *Runtime
	dir     string
	state   *State
}

// StatePaused is the one status beside those of the OCI specification.
const StatePaused specs.ContainerState = "paused"

// transitions says which status may follow which. A container that is gone has none.
var transitions = map[specs.ContainerState][]specs.ContainerState{
	specs.StateCreating: {specs.StateCreated, specs.StateStopped},
	specs.StateCreated:  {specs.StateRunning, StatePaused, specs.StateStopped},
	specs.StateRunning:  {StatePaused, specs.StateStopped},
	StatePaused:         {specs.StateRunning, specs.StateCreated, specs.StateStopped},
	specs.StateStopped:  {},
}

// mayBecome says whether a status may follow another.
func mayBecome(from, to specs.ContainerState) bool { return slices.Contains(transitions[from], to) }

// ID returns the container's name.
func (c *Container) ID() string { return c.state.ID }

// Dir returns the container's directory below the runtime's root.
func (c *Container) Dir() string { return c.dir }

// State returns a copy of what is written down.
func (c *Container) State() *State {
	s := *c.state
	s.Cgroups, s.Annotations = maps.Clone(s.Cgroups), maps.Clone(s.Annotations)
	s.Pod = slices.Clone(s.Pod)
	return &s
}

// Status returns the status that is true now: what was recorded, checked against the process and its cgroup.
func (c *Container) Status() specs.ContainerState {
	s := c.state
	if !alive(s.Pid, s.StartTime) {
		return specs.StateStopped
	}
	if s.Status != specs.StateRunning && s.Status != specs.StateCreated {
		return s.Status
	}
	if cg, err := c.Cgroup(); err == nil {
		if frozen, err := cg.Frozen(); err == nil && frozen {
			return StatePaused
		}
	}
	return s.Status
}

// OCIState returns the state document of the OCI specification.
func (c *Container) OCIState() *specs.State {
	s := c.state
	out := &specs.State{
		Version: s.Bundle.Spec.Version, ID: s.ID, Status: c.Status(), Pid: s.Pid, Bundle: s.Bundle.Dir, Annotations: s.Annotations,
	}
	if out.Status == specs.StateStopped {
		out.Pid = 0
	}
	return out
}

// Cgroup returns the container's cgroup.
func (c *Container) Cgroup() (*cgroup.Cgroup, error) {
	if c.state.CgroupPath == "" {
		return nil, fmt.Errorf("container %s: its maker was not allowed to make a cgroup: %w", c.ID(), fs.ErrNotExist)
	}
	cg, err := cgroup.Load(c.state.CgroupPath)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", c.ID(), err)
	}
	return cg, nil
}

// SavePod stores what package pod keeps with the container.
func (c *Container) SavePod(extra json.RawMessage) error {
	return c.Save(func(s *State) { s.Pod = extra })
}

// Save changes the container's state on disk: it takes the lock, reads the current state, applies change and writes the result.
func (c *Container) Save(change func(*State)) error {
	unlock, err := lock(context.Background(), c.dir)
	if err != nil {
		return fmt.Errorf("save container %s: %w", c.ID(), err)
	}
	defer unlock()
	return c.save(change)
}

// save is Save for a caller that holds the lock.
func (c *Container) save(change func(*State)) error {
	current, err := readState(c.dir, nil)
	if err != nil {
		return fmt.Errorf("save container %s: %w", c.ID(), err)
	}
	change(current)
	if err := writeState(c.dir, current); err != nil {
		return fmt.Errorf("save container %s: %w", c.ID(), err)
	}
	c.state = current
	return nil
}

// reload reads the state again, for a caller that holds the lock.
func (c *Container) reload() error {
	current, err := readState(c.dir, c.state)
	if errors.Is(err, fs.ErrNotExist) {
		return ErrNotExist
	}
	if err == nil {
		c.state = current
	}
	return err
}
