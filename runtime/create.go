package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/boot"
	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/spec"
)

// CreateOptions are what Create wants to know beside the bundle.
type CreateOptions struct {
	// Stdin, Stdout and Stderr become the process's standard streams; nil is the caller's own.
	Stdin, Stdout, Stderr *os.File
	// Console gets the master of the terminal when the process wants one, and owns it.
	Console func(master *os.File) error
	// ConsoleSocket is the path of a unix socket that the master is sent to when Console is nil.
	ConsoleSocket string
	// PidfdSocket is the path of a unix socket that a pidfd of the process is sent to.
	PidfdSocket string
	// PidFile is where the process's pid is written.
	PidFile string
	// PreserveFDs is the number of descriptors from 3 on that the process inherits.
	PreserveFDs int
	// SystemdCgroup has systemd make the cgroup, in the unit that linux.cgroupsPath names as "slice:prefix:name".
	SystemdCgroup bool
	// NoPivot and NoNewKeyring are as in boot.Facts.
	NoPivot, NoNewKeyring bool
	// Rootless lets the container do without a cgroup when this process may not make one and the specification does not ask for any.
	Rootless bool
	// Extra is stored as State.Pod.
	Extra json.RawMessage
	// Trace, when not nil, takes where the time goes.
	Trace *Trace
}

// creation is the work of one Create or Run.
type creation struct {
	runtime *Runtime
	ctx     context.Context
	id      string
	bundle  *spec.Bundle
	options CreateOptions

	dir     string
	fresh   bool // the directory was made here
	lock    *os.File
	cgroup  *cgroup.Cgroup
	unit    *cgroup.Unit // systemd's, when that made the cgroup
	state   *State
	child   *boot.Child
	closers []func()

	mountBefore uint64         // what was on top at the root's path
	rdt         *RDT           // what was made of linux.intelRdt
	returns     []func() error // give back what was lent to a container that does not come to be
}

// Create makes a container and its first process, which waits at the gate until Start. The calling process is the parent of it. After an
// error nothing is left, except the container's directory if it was there before.
func (r *Runtime) Create(ctx context.Context, id string, b *spec.Bundle, o CreateOptions) (*Container, error) {
	return r.create(ctx, id, b, o, boot.GateSocket)
}

// Run is Create and Start at once, with less to write down. The calling process is the parent of the container's first process and has
// to wait for it.
func (r *Runtime) Run(ctx context.Context, id string, b *spec.Bundle, o CreateOptions) (*Container, error) {
	return r.create(ctx, id, b, o, boot.GateWord)
}

func (r *Runtime) create(ctx context.Context, id string, b *spec.Bundle, o CreateOptions, gate boot.Gate) (_ *Container, err error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	if unprivileged() && namespaceIndex(b.Spec, specs.UserNamespace, "any") < 0 {
		return nil, fmt.Errorf("create container %s: %w", id, errNeedsUsers)
	}
	r.warnCapabilities(id, b.Spec, b.Spec.Process)
	c := &creation{runtime: r, ctx: ctx, id: id, bundle: b, options: o, dir: r.Dir(id)}
	unlock, err := c.makeDir()
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", id, err)
	}
	defer unlock()
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("create container %s: %w", id, c.explain(err)), c.giveBack())
		}
		for _, f := range c.closers {
			f()
		}
		if err != nil {
			err = errors.Join(err, c.undo())
		}
	}()
	o.Trace.Mark("make and lock " + c.dir)
	if err := c.makeCgroup(); err != nil {
		return nil, &StageError{Stage: StageCgroup, Err: err}
	}
	o.Trace.Mark("make cgroup, write limits")
	if err := c.makeRDT(); err != nil {
		return nil, err
	}
	if err := c.start(gate); err != nil {
		return nil, err
	}
	if err := c.follow(gate); err != nil {
		return nil, c.atInit(err)
	}
	if o.Trace != nil {
		o.Trace.Mark("follow the first process until its program runs")
		o.Trace.child = c.child.Trace()
	}
	container := &Container{runtime: r, dir: c.dir, state: c.state}
	if gate == boot.GateSocket {
		if err := container.save(func(s *State) { s.Status, s.RootMount = specs.StateCreated, c.state.RootMount }); err != nil {
			return nil, err
		}
		if err := c.child.Continue(); err != nil {
			return nil, c.atInit(err)
		}
	}
	if err := errors.Join(writePidFile(o.PidFile, c.state.Pid), sendPidfd(o.PidfdSocket, c.state.Pid)); err != nil {
		return nil, err
	}
	if gate == boot.GateWord {
		if err := container.poststart(ctx); err != nil {
			return nil, err
		}
	}
	return container, nil
}

// container is the container as far as it is made.
func (c *creation) container() *Container {
	return &Container{runtime: c.runtime, dir: c.dir, state: c.state}
}

// makeDir makes the container's directory, or takes one that was prepared and holds no container yet, and locks it.
func (c *creation) makeDir() (unlock func(), err error) {
	if err := os.MkdirAll(c.runtime.root, 0o711); err != nil {
		return nil, err
	}
	switch err := os.Mkdir(c.dir, 0o711); {
	case err == nil:
		c.fresh = true
	case !os.IsExist(err):
		return nil, err
	}
	if c.lock, err = lockFile(c.ctx, c.dir); err != nil {
		return nil, err
	}
	unlock = func() { c.lock.Close() }
	if _, err := os.Lstat(filepath.Join(c.dir, stateName)); err == nil {
		unlock()
		return nil, ErrExist
	}
	return unlock, nil
}

// start compiles the program and begins it.
func (c *creation) start(gate boot.Gate) error {
	c.mountBefore = rootMount(c.bundle)
	program, facts, err := c.compile(gate)
	if err != nil {
		return err
	}
	c.options.Trace.Mark("compile")
	bind, err := c.bind(facts, program.Slots())
	if err != nil {
		return err
	}
	bind.Trace = c.options.Trace != nil
	if err := c.openIDMaps(&bind, program); err != nil {
		return err
	}
	c.runtime.logFilter(program)
	if c.child, err = program.Start(bind); err != nil {
		return err
	}
	c.closers = append(c.closers, func() { c.child.Close() })
	c.options.Trace.Mark("clone the first process")
	c.runtime.begun(c.id, program, c.child.Pid)
	status := specs.StateCreating
	if gate == boot.GateWord && !facts.Hooks && !hasStartHooks(c.bundle.Spec) {
		status = specs.StateRunning // as it will be when the child gets its word, unless nothing is left of it
	}
	defer c.options.Trace.Mark("write the state")
	if err := c.rdt.add(c.child.Pid); err != nil {
		return err
	}
	return c.record(status)
}

// compile makes the program of the container's first process.
func (c *creation) compile(gate boot.Gate) (*boot.Program, boot.Facts, error) {
	facts := Facts(c.id, c.bundle, c.cgroup)
	facts.Gate, facts.NoPivot, facts.NoNewKeyring = gate, c.options.NoPivot, c.options.NoNewKeyring
	if facts.NoPivot {
		mounts, err := readMountInfo("self")
		if err != nil {
			return nil, facts, err
		}
		facts.Exposed = exposed(mounts)
	}
	facts.Hooks = c.hasCreateHooks() || c.hasNetDevices()
	facts.NullStreams = nullStreams(c.options.Stdin, c.options.Stdout, c.options.Stderr)
	program, err := boot.Compile(c.bundle.Spec, facts)
	return program, facts, err
}

// bind opens what the program needs from its parent.
func (c *creation) bind(f boot.Facts, slots []string) (boot.Bind, error) {
	b := boot.Bind{Slots: map[string]int{}, Preserve: c.options.PreserveFDs, Dumpable: f.Unprivileged}
	streams(b.Slots, c.options.Stdin, c.options.Stdout, c.options.Stderr, c.bundle.Spec.Process.User.UID)
	if err := c.openCgroup(&b, f.Tasks); err != nil {
		return b, err
	}
	if err := c.openNamespaces(&b, slots); err != nil {
		return b, err
	}
	if f.Gate == boot.GateSocket {
		fd, err := listenGate(c.dir)
		if err != nil {
			return b, err
		}
		c.closers = append(c.closers, func() { unix.Close(fd) })
		b.Slots["gate"] = fd
	}
	return b, nil
}

func (c *creation) namespaces() []specs.LinuxNamespace {
	if c.bundle.Spec.Linux == nil {
		return nil
	}
	return c.bundle.Spec.Linux.Namespaces
}

// openCgroup opens the files by which the child joins its cgroup.
func (c *creation) openCgroup(b *boot.Bind, tasks []string) error {
	for _, file := range tasks {
		fd, err := c.open(file, unix.O_WRONLY)
		if err != nil {
			return fmt.Errorf("open cgroup: %w", err)
		}
		b.Slots[file] = fd
	}
	if c.cgroup == nil {
		return nil
	}
	if dir := c.cgroup.UnifiedDir(); dir != "" {
		fd, err := c.open(dir, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return fmt.Errorf("open cgroup: %w", err)
		}
		b.Cgroup = fd
	}
	return nil
}

// open opens a file until the creation is over.
func (c *creation) open(path string, flags int) (int, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	c.closers = append(c.closers, func() { unix.Close(fd) })
	return fd, nil
}

// streams names the descriptors of the standard streams. Pipes and sockets are given to the process's user: it may want to open them
// again as /dev/stdout.
func streams(slots map[string]int, stdin, stdout, stderr *os.File, uid uint32) {
	for i, f := range []*os.File{stdin, stdout, stderr} {
		fd := i
		if f != nil {
			fd = int(f.Fd())
		}
		slots[[]string{"stdin", "stdout", "stderr"}[i]] = fd
		var st unix.Stat_t
		if uid != 0 && unix.Fstat(fd, &st) == nil && (st.Mode&unix.S_IFMT == unix.S_IFIFO || st.Mode&unix.S_IFMT == unix.S_IFSOCK) {
			_ = unix.Fchown(fd, int(uid), -1)
		}
	}
}

// record writes the state of the container that is being made, while the child works: from here on it can be found and removed, whatever
// happens to this process. When that ends earlier, so does the child, which waits for its word or its start.
func (c *creation) record(status specs.ContainerState) error {
	if err := c.describe(status, c.child.Pid); err != nil {
		return err
	}
	return writeState(c.dir, c.state)
}

// describe makes the state of a container whose first process is pid.
func (c *creation) describe(status specs.ContainerState, pid int) error {
	start, _, err := startTime(pid)
	if err != nil {
		return fmt.Errorf("look at process %d: %w", pid, err)
	}
	c.state = &State{
		Version: stateVersion, ID: c.id, Status: status, Pid: pid, StartTime: start, Created: time.Now().UTC(),
		Bundle: c.bundle, Annotations: c.bundle.Spec.Annotations,
		Owner: owner(), Pod: c.options.Extra, NoNewKeyring: c.options.NoNewKeyring, RDT: c.rdt,
	}
	if c.cgroup != nil {
		c.state.CgroupPath, c.state.Cgroups = c.cgroup.Path(), c.cgroup.Paths()
	}
	if c.unit != nil {
		c.state.SystemdUnit = c.unit.Name
	}
	for i, f := range []*os.File{c.options.Stdin, c.options.Stdout, c.options.Stderr} {
		fd := i
		if f != nil {
			fd = int(f.Fd())
		}
		c.state.Stdio[i], _ = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	}
	return nil
}

// follow answers the child until it waits at the gate or runs.
func (c *creation) follow(gate boot.Gate) error {
	if err := c.mapUsers(); err != nil {
		return err
	}
	ready := false
	for {
		event, err := c.child.Next(c.ctx)
		if err != nil {
			return err
		}
		switch event.Mark {
		case "":
			if !ready {
				return fmt.Errorf("process %d ended before it was ready", c.child.Pid)
			}
			return nil
		case boot.MarkCreated:
			c.runtime.log.Debug(stageInit, "container", c.id)
			ready = true
			if err := c.checkUsers(); err != nil {
				return err
			}
			c.state.RootMount = rootMount(c.bundle)
			if gate == boot.GateSocket {
				return nil
			}
			if err := c.container().startHooks(c.ctx); err != nil {
				return err
			}
			if err := c.allow(); err != nil {
				return err
			}
			c.runtime.log.Debug(stageRuns, "container", c.id)
		case boot.MarkConsole:
			if err := giveConsole(event.File, c.options.Console, c.options.ConsoleSocket); err != nil {
				return err
			}
		case boot.MarkTarget, boot.MarkSource, boot.MarkCopyUp:
			err := c.serveMount(&event)
			event.Close()
			if err != nil {
				return err
			}
		case boot.MarkListener:
			if err := c.container().giveListener(event.File, c.child.Pid, specs.StateCreating); err != nil {
				return err
			}
		case boot.MarkPrepare:
			if err := c.moveDevices(); err != nil {
				return err
			}
			if err := c.createHooks(); err != nil {
				return err
			}
			if err := c.child.Continue(); err != nil {
				return err
			}
		}
	}
}

// allow lets the child of a Run execute its program.
func (c *creation) allow() error {
	if c.state.Status != specs.StateRunning || c.state.RootMount != 0 {
		c.state.Status = specs.StateRunning
		if err := writeState(c.dir, c.state); err != nil {
			return err
		}
	}
	return c.child.Continue()
}

// undo removes what a failed creation made.
func (c *creation) undo() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), 10*time.Second)
	defer cancel()
	var errs []error
	if c.child != nil {
		_ = c.child.Kill() // it may have ended by itself
	}
	if c.unit != nil {
		errs = append(errs, c.unit.Stop(ctx))
	}
	if c.cgroup != nil {
		errs = append(errs, c.cgroup.Kill(ctx), c.cgroup.Delete(ctx))
	}
	if mount := rootMount(c.bundle); c.child != nil && mount != c.mountBefore {
		errs = append(errs, detachRoot(c.bundle, mount))
	}
	errs = append(errs, c.rdt.remove())
	for _, name := range []string{stateName, gateName} {
		if err := os.Remove(filepath.Join(c.dir, name)); err != nil && !os.IsNotExist(err) {
			errs = append(errs, err)
		}
	}
	if c.fresh {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	if c.state != nil {
		c.container().poststop(context.WithoutCancel(c.ctx))
	}
	return errors.Join(errs...)
}
