package boot

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// execPlan is how the container's program is found and called.
type execPlan struct {
	candidates []string // tried in order, as execvp does
	byPath     bool     // the gangway is executed by execve of its path in /proc, not by execveat
	args, env  []string
}

// String shows the plan as a call.
func (e *execPlan) String() string {
	quoted := make([]string, len(e.args))
	for i, a := range e.args {
		quoted[i] = strconv.Quote(a)
	}
	return fmt.Sprintf("execve(%s, [%s], %d variables)", quoteAll(e.candidates, " or "), strings.Join(quoted, ", "), len(e.env))
}

func quoteAll(list []string, separator string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = strconv.Quote(s)
	}
	return strings.Join(quoted, separator)
}

// lookup makes sure that the program is there, before the container counts as created.
func (c *compiler) lookup(p *specs.Process) {
	if len(p.Args) == 0 || p.Args[0] == "" {
		c.fail(errors.New("compile " + c.facts.Document + ": no program (" + c.facts.Document + ": process.args)"))
		return
	}
	file := cmp.Or(c.program, p.Args[0])
	c.p.exec = execPlan{args: p.Args, env: finalEnvironment(p.Env, c.facts.Home)}
	c.on("exec "+strconv.Quote(file), "process.args")
	if strings.Contains(file, "/") {
		c.p.exec.candidates = []string{file}
		plain := new(label)
		c.openDir(file).otherwise(plain)
		c.do(opFail, symbol(uintptr(unix.EACCES), namesErrno))
		c.place(plain)
		c.access(file)
		return
	}
	found := new(label)
	for dir := range strings.SplitSeq(environment(p.Env, "PATH"), ":") {
		if !path.IsAbs(dir) {
			continue
		}
		next, candidate := new(label), path.Join(dir, file)
		c.p.exec.candidates = append(c.p.exec.candidates, candidate)
		c.access(candidate).tolerant().otherwise(next)
		c.openDir(candidate).otherwise(found)
		c.place(next)
	}
	c.do(opFail, symbol(uintptr(unix.ENOENT), namesErrno))
	c.place(found)
}

// access checks that a file may be executed.
func (c *compiler) access(file string) last {
	return c.do(unix.SYS_FACCESSAT2, cwd(), text(file), symbol(unix.X_OK, namesAccess), symbol(unix.AT_EACCESS, namesAt))
}

// openDir succeeds if a path is a directory, which no program is.
func (c *compiler) openDir(file string) last {
	return c.do(unix.SYS_OPENAT, cwd(), text(file), symbol(flagsDir, namesOpen)).into("dir").tolerant()
}

// environment returns the last value of a variable.
func environment(env []string, name string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(env[i], name+"="); ok {
			return value
		}
	}
	return ""
}

// execute ends the program.
func (c *compiler) execute(p *specs.Process) {
	c.filterAt(filterAfterGate)
	c.filterAt(filterByGangway)
	if len(p.Args) > 0 {
		c.on("exec "+strconv.Quote(p.Args[0]), "process.args")
	}
	c.do(opExec)
}

// ExecFacts are what CompileExec has to know beside the process.
type ExecFacts struct {
	// Document is the name that error messages give to the process's description.
	Document string
	// Namespaces are the flags of the container's namespaces that are not the runtime's own. The child joins them by the pidfd in slot
	// "container"; the pid namespace is the parent's business.
	Namespaces uint64
	// Tasks, Nofile, Capabilities, Home and Gate are as in Facts.
	Tasks        []string
	Nofile       unix.Rlimit
	Capabilities uint64
	Home         string
	Gate         Gate
	// ID and NoNewKeyring are as in Facts.
	ID           string
	NoNewKeyring bool
	// Unprivileged is as in Facts: the child joins the pid namespace itself, from inside the user namespace.
	Unprivileged bool
	// Late has the child join the pid namespace itself, after all others: who can trace processes there finds none that sees the host's files.
	Late bool
	// Chroot has the child change to the root of the container's first process, in slot "root": for containers in the runtime's mount
	// namespace.
	Chroot bool
	// Program is the path of the program when that is not what the first argument says.
	Program string
	// Personality and MemoryPolicy are the container's: what its specification has in linux.
	Personality  *specs.LinuxPersonality
	MemoryPolicy *specs.LinuxMemoryPolicy
	Seccomp      *specs.LinuxSeccomp
	MountLabel   string
	// Arch, AppArmor and SELinux are as in Facts.
	Arch              string
	AppArmor, SELinux bool
}

// CompileExec turns a process specification into the program of another process in a container that runs.
func CompileExec(p *specs.Process, f ExecFacts) (*Program, error) {
	s := &specs.Spec{Process: p, Linux: &specs.Linux{Personality: f.Personality, MemoryPolicy: f.MemoryPolicy, MountLabel: f.MountLabel}}
	if p == nil {
		return nil, errors.New("compile process: missing")
	}
	c := &compiler{
		builder: builder{p: &Program{Ops: make([]Op, 0, 128)}, document: f.Document},
		spec:    s,
		mnt:     plainMount,
		facts: Facts{
			Document: f.Document, Tasks: f.Tasks, Nofile: f.Nofile, Capabilities: f.Capabilities, Home: f.Home, Gate: f.Gate,
			ID: f.ID, NoNewKeyring: f.NoNewKeyring, Unprivileged: f.Unprivileged, AppArmor: f.AppArmor, SELinux: f.SELinux, Arch: f.Arch,
		},
		users:   f.Namespaces&unix.CLONE_NEWUSER != 0,
		program: f.Program,
	}
	c.compileFilter(f.Seccomp, p)
	c.begin()
	c.labels()
	c.enterCgroup(p.ExecCPUAffinity)
	c.score()
	c.joinContainer(f)
	c.on("become session leader", "")
	c.do(unix.SYS_SETSID)
	c.keyring()
	if p.Terminal {
		c.on("open root", "")
		c.do(unix.SYS_OPENAT, cwd(), text("/"), symbol(flagsDir, namesOpen)).into("container root")
		c.console("container root")
	}
	c.process(p)
	c.gate()
	c.execute(p)
	return c.p, c.err
}

// joinContainer enters the namespaces and the root of a container.
func (c *compiler) joinContainer(f ExecFacts) {
	flags := f.Namespaces
	if !f.Unprivileged && !f.Late {
		flags &^= unix.CLONE_NEWPID
	}
	if flags != 0 {
		c.on("join the container's namespaces", "")
		c.do(unix.SYS_SETNS, c.slot("container", false), symbol(flags, namesClone))
	}
	if c.users {
		c.becomeRoot("")
	}
	if f.Chroot {
		c.on("change root", "")
		c.do(unix.SYS_FCHDIR, c.slot("root", false))
		c.do(unix.SYS_CHROOT, text("."))
	}
	if flags&unix.CLONE_NEWPID != 0 {
		c.on("enter the pid namespace", "")
		if f.Late {
			c.do(opClose, number(1)) // the host's proc, and what else leads there
		}
		c.rebirth(0)
	}
}
