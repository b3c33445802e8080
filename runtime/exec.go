package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/boot"
	"github.com/zap-migrate/zap/runtime/cgroup"
)

// ExecOptions say what Exec runs.
type ExecOptions struct {
	// Process is what to run. Nothing is added to it, but HOME when its environment has none.
	Process *specs.Process
	// Document is what errors call the place that Process is from; "process" when empty.
	Document string
	// Stdin, Stdout, Stderr, Console, ConsoleSocket, PidfdSocket, PidFile and PreserveFDs are as in CreateOptions.
	Stdin, Stdout, Stderr *os.File
	Console               func(master *os.File) error
	ConsoleSocket         string
	PidfdSocket           string
	PidFile               string
	PreserveFDs           int
	// Cgroups are the groups below the container's that the process goes to, by controller; see cgroup.Place.
	Cgroups map[string]string
	// IgnorePaused lets the process start in a paused container, where it waits like all others.
	IgnorePaused bool
}

// Exec runs another process in the container: in all its namespaces, the time namespace included, and its cgroup. The process is a child
// of the calling one, which has to wait for it, and leads a session of its own.
func (c *Container) Exec(ctx context.Context, o ExecOptions) (*Process, error) {
	if o.Document == "" {
		o.Document = "process"
	}
	p, err := c.exec(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.ID(), err)
	}
	return p, nil
}

func (c *Container) exec(ctx context.Context, o ExecOptions) (_ *Process, err error) {
	if err := c.reload(); err != nil {
		return nil, err
	}
	switch status := c.Status(); {
	case status == specs.StateStopped:
		return nil, fmt.Errorf("cannot exec in a stopped container: %w", ErrNotRunning)
	case status == StatePaused && !o.IgnorePaused:
		return nil, errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	}
	c.runtime.warnCapabilities(c.ID(), c.state.Bundle.Spec, o.Process)
	if err := c.noteTracer(o.Process); err != nil {
		return nil, err
	}
	e := &execution{container: c, options: o}
	defer func() { e.close() }()
	child, err := e.begin(ctx)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(writePidFile(o.PidFile, child.Pid), sendPidfd(o.PidfdSocket, child.Pid)); err != nil {
		return nil, errors.Join(err, child.Kill())
	}
	return &Process{Pid: child.Pid}, nil
}

// execution is the work of one Exec.
type execution struct {
	container *Container
	options   ExecOptions
	program   string // what is executed when it is not found by the first argument
	host      bool   // it is a program of the host: the container's seccomp filter is not for it
	files     []*os.File
}

// begin starts the process and returns when its program runs.
func (e *execution) begin(ctx context.Context) (*boot.Child, error) {
	place, err := e.place()
	if err != nil {
		return nil, err
	}
	program, bind, err := e.prepare(place)
	if err != nil {
		return nil, err
	}
	e.container.runtime.logFilter(program)
	child, err := program.Start(bind)
	if e.mayFollowInit(err) {
		child, err = e.startWithInit(program, bind)
	}
	if err != nil {
		return nil, err
	}
	defer child.Close()
	c := e.container
	c.runtime.begun(c.ID(), program, child.Pid)
	c.runtime.bound(c.ID(), e.options.Process)
	if err := e.follow(ctx, child); err != nil {
		_ = child.Kill() // it may have ended by itself
		return nil, err
	}
	c.runtime.log.Debug(stageInit, "container", c.ID())
	c.runtime.log.Debug(stageExecRuns, "container", c.ID(), "pid", child.Pid)
	return child, nil
}

func (e *execution) close() {
	for _, f := range e.files {
		f.Close()
	}
}

// prepare compiles the program and opens what it needs.
func (e *execution) prepare(place cgroup.Place) (*boot.Program, boot.Bind, error) {
	s, o := e.container.state, e.options
	bind := boot.Bind{Slots: map[string]int{}, Preserve: o.PreserveFDs}
	facts := boot.ExecFacts{
		Document: o.Document, Nofile: openFiles(), Capabilities: heldCapabilities(), Home: home(s.Bundle, o.Process),
		Program: e.program, ID: s.ID, NoNewKeyring: s.NoNewKeyring, Unprivileged: unprivileged(),
		Late: e.container.Exposed(),
	}
	facts.AppArmor, facts.SELinux = modules(o.Process, s.Bundle.Spec.Linux)
	if l := s.Bundle.Spec.Linux; l != nil {
		facts.Personality, facts.MemoryPolicy, facts.MountLabel = l.Personality, l.MemoryPolicy, l.MountLabel
		if !e.host {
			facts.Seccomp = l.Seccomp
		}
	}
	streams(bind.Slots, o.Stdin, o.Stdout, o.Stderr, o.Process.User.UID)
	facts.Tasks = place.Tasks
	late := o.Process.ExecCPUAffinity != nil && o.Process.ExecCPUAffinity.Initial != ""
	if late {
		// runc's tests look for these words.
		e.container.runtime.log.Debug("before the cgroup (nsexec): affinity: " + maskText(o.Process.ExecCPUAffinity.Initial))
		// The process runs on other CPUs first, which it could not if it were born into the cgroup.
		facts.Tasks = place.JoinFiles()
	}
	if err := e.openCgroup(&bind, place, facts.Tasks, late); err != nil {
		return nil, bind, err
	}
	if err := e.openNamespaces(&bind, &facts); err != nil {
		return nil, bind, err
	}
	program, err := boot.CompileExec(o.Process, facts)
	return program, bind, err
}

// openNamespaces finds out which namespaces the container has of its own.
func (e *execution) openNamespaces(bind *boot.Bind, facts *boot.ExecFacts) error {
	s := e.container.state
	fd, err := unix.PidfdOpen(s.Pid, 0)
	if err != nil {
		return fmt.Errorf("open process %d: %w", s.Pid, err)
	}
	pidfd := os.NewFile(uintptr(fd), "pidfd")
	e.files = append(e.files, pidfd)
	bind.Slots["container"] = fd
	for _, ns := range []struct{ kind, file string }{
		{"user", "user"},
		{"network", "net"},
		{"ipc", "ipc"},
		{"uts", "uts"},
		{"pid", "pid"},
		{"mount", "mnt"},
		{"cgroup", "cgroup"},
		{"time", "time"},
	} {
		theirs, err := os.Open("/proc/" + strconv.Itoa(s.Pid) + "/ns/" + ns.file)
		if os.IsNotExist(err) && alive(s.Pid, s.StartTime) {
			continue // a kernel without this kind
		}
		if err != nil {
			return fmt.Errorf("open %s namespace: %w", ns.kind, err)
		}
		e.files = append(e.files, theirs)
		if sameFile(theirs, "/proc/self/ns/"+ns.file) {
			continue
		}
		flag := boot.NamespaceFlag(specs.LinuxNamespaceType(ns.kind))
		if facts.Namespaces |= flag; flag == unix.CLONE_NEWPID && !facts.Unprivileged && !facts.Late {
			bind.PIDNamespace = theirs
		}
	}
	if inHostMounts(s.Bundle) {
		root, err := os.OpenFile("/proc/"+strconv.Itoa(s.Pid)+"/root", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return fmt.Errorf("open root: %w", err)
		}
		e.files = append(e.files, root)
		facts.Chroot, bind.Slots["root"] = true, int(root.Fd())
	}
	if !alive(s.Pid, s.StartTime) { // asked after everything that names it by pid
		return ErrNotRunning
	}
	return nil
}

// sameFile says whether an open file is the one at path.
func sameFile(f *os.File, path string) bool {
	var a, b unix.Stat_t
	return unix.Fstat(int(f.Fd()), &a) == nil && unix.Stat(path, &b) == nil && a.Dev == b.Dev && a.Ino == b.Ino
}

// follow answers the child until its program runs.
func (e *execution) follow(ctx context.Context, child *boot.Child) error {
	for {
		event, err := child.Next(ctx)
		if err != nil {
			return err
		}
		if event.Mark == "" {
			return nil
		}
		switch event.Mark {
		case boot.MarkConsole:
			err = giveConsole(event.File, e.options.Console, e.options.ConsoleSocket)
		case boot.MarkListener:
			err = e.container.giveListener(event.File, child.Pid, specs.StateRunning)
		}
		if err != nil {
			return err
		}
	}
}
