package boot

import (
	"errors"
	"sort"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/seccomp"
)

// Facts are what compiling has to know about the host beside the specification.
type Facts struct {
	// Document is the name that error messages give to the specification, "config.json" when empty.
	Document string
	// ID is the container's name, for its session keyring.
	ID string
	// Bundle is the directory that relative sources of bind mounts start from.
	Bundle string
	// Root is the absolute path of the root file system.
	Root string
	// Overlay, when set, is mounted as the root file system instead of Root.
	Overlay *Overlay
	// Files holds the sources of bind mounts, as the specification spells them, that are no directories.
	Files map[string]bool
	// Cgroups are the directories of the container's cgroup, for mounts of type cgroup.
	Cgroups []Cgroup
	// NullStreams says which of the standard streams are the null device.
	NullStreams [3]bool
	// Tasks are the files that the process writes itself into, to join its cgroup. Each is a slot of the same name.
	Tasks []string
	// Nofile is the limit on descriptors that the container gets if it asks for none: what the runtime was started with.
	Nofile unix.Rlimit
	// Capabilities are those that the runtime may give away, as a bit mask; 0 means all.
	Capabilities uint64
	// Home is the value of HOME for a process whose environment has none; empty adds none.
	Home string
	// Gate says what holds the program back after everything is prepared.
	Gate Gate
	// Hooks makes the program report MarkPrepare and wait when the container's mounts are there and its root is not yet exchanged.
	Hooks bool
	// Unprivileged says that the runtime lacks the capabilities that let it do anything outside of a user namespace of its own.
	Unprivileged bool
	// NoPivot moves the root file system onto / instead of exchanging it: for hosts that run from a ramdisk.
	NoPivot bool
	// Exposed are mounts of the host to detach with NoPivot, in the order in which they were made.
	Exposed []HostMount
	// Arch is the machine's GOARCH, this build's when empty.
	Arch string
	// AppArmor and SELinux say that the host has the security module.
	AppArmor, SELinux bool
	// NoNewKeyring keeps the caller's session keyring.
	NoNewKeyring bool
}

// Overlay is an overlay file system, by absolute paths on the host.
type Overlay struct {
	Lower       []string // the topmost first
	Upper, Work string
}

// Cgroup is a cgroup directory to show in the container.
type Cgroup struct {
	Name  string   // its name below the mount: a v1 controller; empty when cgroup v2 is all there is
	Dir   string   // on the host
	Links []string // other names for it, where controllers share a hierarchy
}

// Gate is what a program waits for before it executes the container's program.
type Gate int

const (
	// GateNone lets it run at once.
	GateNone Gate = iota
	// GateSocket has it wait for Child.Continue, and accept one connection on the listening socket in slot "gate"; a later failure is reported
	// there. A parent that ends before it let it continue takes it along.
	GateSocket
	// GateWord has it wait for Child.Continue.
	GateWord
)

// Marks under which a program reports to its parent.
const (
	MarkMaps    = "map users"      // waits for the id maps of a new user namespace
	MarkPrepare = "run hooks"      // waits for hooks to have run
	MarkConsole = "send console"   // comes with the master of the terminal
	MarkCreated = "wait for start" // everything is prepared
)

// Compile turns a specification into the program of the container's first process. It changes and asks nothing.
func Compile(s *specs.Spec, f Facts) (*Program, error) {
	if f.Document == "" {
		f.Document = "config.json"
	}
	if s.Linux == nil {
		s = &specs.Spec{
			Process: s.Process, Root: s.Root, Hostname: s.Hostname, Domainname: s.Domainname, Mounts: s.Mounts,
			Linux: &specs.Linux{},
		}
	}
	if s.Process == nil {
		return nil, errors.New("compile process: missing")
	}
	c := &compiler{
		builder: builder{p: &Program{Ops: make([]Op, 0, 640)}, document: f.Document}, spec: s, facts: f, mnt: plainMount,
	}
	c.compileFilter(s.Linux.Seccomp, s.Process)
	c.begin()
	c.labels()
	c.namespaces()
	c.host()
	c.joinMount()
	c.root()
	c.mounts()
	c.devices()
	if f.Hooks {
		c.on(MarkPrepare, "hooks")
		c.do(opReport)
		c.do(opAwait)
	}
	c.console("root")
	c.hide()
	c.workingDir()
	c.pivot()
	c.nullStreams()
	c.process(s.Process)
	c.gate()
	c.execute(s.Process)
	return c.p, c.err
}

// compiler is a builder with what it builds from.
type compiler struct {
	builder
	spec  *specs.Spec
	facts Facts
	users bool // the container has a user namespace of its own

	hostMounts bool // it has no mount namespace of its own

	program string      // of an exec, when not its first argument
	mount   int         // index of the mount that is being compiled
	mnt     string      // register of that mount
	late    []lateMount // what becomes read-only at the end
	anchors []string    // proc and sys, if they are mounts
	digits  *[5]byte    // where the mode of a tmpfs is found at run time
	toRoot  *rights     // sends the root file system
	answer  *rights     // what the parent answers with

	filter      *seccomp.Filter
	filterPlace filterPlace
	kept        *capabilitySets // what is set when the filter is there
}

// begin is what every program does first: it closes what it does not need and takes its standard streams.
func (c *compiler) begin() {
	c.slot(slotSync, true)
	c.slot(slotStub, true)
	if c.facts.Gate == GateSocket {
		c.slot("gate", true)
	}
	c.on("close inherited descriptors", "")
	c.do(opClose, number(0))
	c.on("take standard streams", "")
	streams := []string{"stdin", "stdout", "stderr"}
	for _, s := range streams {
		c.do(unix.SYS_FCNTL, c.slot(s, false), symbol(unix.F_DUPFD_CLOEXEC, namesFcntl), number(3)).into(s)
	}
	for i, s := range streams {
		c.do(unix.SYS_DUP3, c.reg(s), number(i), number(0))
	}
	if c.facts.Gate == GateSocket {
		c.quitOnSignals()
	}
	c.on("set umask", "")
	c.do(unix.SYS_UMASK, symbol(0, namesMode))
	c.openProc()
}

// joinCgroup makes the process a member of its cgroup. A single-threaded process that writes 0 into a `tasks` file is moved
// without the kernel's lock on all thread groups, which costs milliseconds.
func (c *compiler) joinCgroup(path string) {
	c.on("join cgroup", path)
	for _, file := range c.facts.Tasks {
		c.what = "join cgroup " + strings.TrimSuffix(file, "/tasks")
		c.do(unix.SYS_WRITE, c.slot(file, false), text("0"), number(1))
	}
}

// host sets what belongs to the namespaces and is set through the host's /proc, before the container's is there.
func (c *compiler) host() {
	if name := c.spec.Hostname; name != "" {
		c.on("set hostname "+name, "hostname")
		c.do(unix.SYS_SETHOSTNAME, text(name), number(len(name)))
	}
	if name := c.spec.Domainname; name != "" {
		c.on("set domainname "+name, "domainname")
		c.do(unix.SYS_SETDOMAINNAME, text(name), number(len(name)))
	}
	keys := make([]string, 0, len(c.spec.Linux.Sysctl))
	for k := range c.spec.Linux.Sysctl {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		c.on("set sysctl "+k, "linux.sysctl."+k)
		c.writeFile("/proc/sys/"+sysctlPath(k), c.spec.Linux.Sysctl[k])
	}
}

// sysctlPath turns the name of a sysctl into its path below /proc/sys. As in sysctl(8), when the first separator is a slash the
// dots are part of the names.
func sysctlPath(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' {
		return name
	}
	swap := func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}
	return strings.Map(swap, name)
}

// close closes the descriptor in a register.
func (b *builder) close(register string) {
	b.do(unix.SYS_CLOSE, b.reg(register))
}

// gate holds the program back until the container is started.
func (c *compiler) gate() {
	c.filterAt(filterBeforeGate)
	c.on(MarkCreated, "")
	switch c.facts.Gate {
	case GateNone:
	case GateWord:
		c.do(opReport)
		c.do(opAwait)
	case GateSocket:
		c.do(opReport)
		c.do(opAwait) // nobody could find it here as long as it is written down nowhere
		c.do(unix.SYS_ACCEPT4, c.slot("gate", true), null(), null(), symbol(unix.O_CLOEXEC, namesOpen)).into("starter")
		c.do(unix.SYS_DUP3, c.reg("starter"), c.slot(slotSync, true), symbol(unix.O_CLOEXEC, namesOpen))
		c.close("starter")
		c.do(unix.SYS_CLOSE, c.slot("gate", true))
	}
}

// showBytes is a stand-in for memory whose content has nothing to say.
func showBytes(unsafe.Pointer) string { return "&buffer" }
