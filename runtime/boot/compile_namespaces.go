package boot

import (
	"fmt"
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// namespaceFlags are the clone flags of the namespace types.
var namespaceFlags = []struct {
	kind specs.LinuxNamespaceType
	flag uint64
}{
	{specs.UserNamespace, unix.CLONE_NEWUSER},
	{specs.NetworkNamespace, unix.CLONE_NEWNET},
	{specs.IPCNamespace, unix.CLONE_NEWIPC},
	{specs.UTSNamespace, unix.CLONE_NEWUTS},
	{specs.PIDNamespace, unix.CLONE_NEWPID},
	{specs.MountNamespace, unix.CLONE_NEWNS},
	{specs.CgroupNamespace, unix.CLONE_NEWCGROUP},
	{specs.TimeNamespace, unix.CLONE_NEWTIME},
}

// NamespaceFlag returns the clone flag of a namespace type, 0 for one that is not known.
func NamespaceFlag(kind specs.LinuxNamespaceType) uint64 {
	for _, n := range namespaceFlags {
		if n.kind == kind {
			return n.flag
		}
	}
	return 0
}

// namespaces enters the namespaces: first joins those that have a path, then makes the others. The pid namespace and a new user
// namespace are there from birth; the cgroup namespace comes after the cgroup was joined, which is then its root.
func (c *compiler) namespaces() {
	var fresh uint64
	origin := "linux.namespaces"
	found := map[specs.LinuxNamespaceType]bool{}
	for i, ns := range c.spec.Linux.Namespaces {
		flag := NamespaceFlag(ns.Type)
		switch {
		case flag == 0 || found[ns.Type]:
			c.fail(fmt.Errorf("compile %s: %q is unknown or there twice (%[1]s: %[3]s)", c.facts.Document, ns.Type, index(origin, i)))
		case ns.Path == "":
			fresh |= flag
		case ns.Type == specs.UserNamespace:
			c.fail(fmt.Errorf("compile %s: joining a user namespace is not supported yet (%[1]s: %[2]s)", c.facts.Document, index(origin, i)))
		}
		found[ns.Type] = true
	}
	if !found[specs.MountNamespace] {
		c.fail(fmt.Errorf("compile %s: a mount namespace is needed (%[1]s: %[2]s)", c.facts.Document, origin))
	}
	const atBirth = unix.CLONE_NEWPID | unix.CLONE_NEWUSER
	c.p.CloneFlags = fresh & atBirth
	c.users = fresh&unix.CLONE_NEWUSER != 0
	c.mapUsers()
	c.anywhere()
	c.joinCgroup("linux.cgroupsPath")
	c.joinNamespaces()
	if fresh &^= atBirth; fresh != 0 {
		c.on("make namespaces", origin)
		c.do(unix.SYS_UNSHARE, symbol(fresh, namesClone))
	}
	c.timeOffsets(fresh)
	c.score()
	c.on("become session leader", "")
	c.do(unix.SYS_SETSID)
	c.keyring()
}

// mapUsers waits until the parent has written the id maps and then becomes root in the new user namespace.
func (c *compiler) mapUsers() {
	if !c.users {
		return
	}
	c.on(MarkMaps, "linux.uidMappings")
	c.do(opAwait)
	c.on("become root in the user namespace", "linux.uidMappings")
	c.do(unix.SYS_SETRESGID, number(0), number(0), number(0))
	c.do(unix.SYS_SETRESUID, number(0), number(0), number(0))
}

// joinNamespaces enters the namespaces that have a path. The parent opened them; the pid namespace is the parent's own business.
func (c *compiler) joinNamespaces() {
	for i, ns := range c.spec.Linux.Namespaces {
		if ns.Path == "" || ns.Type == specs.PIDNamespace || ns.Type == specs.UserNamespace {
			continue
		}
		c.on(fmt.Sprintf("join %s namespace %s", ns.Type, ns.Path), index("linux.namespaces", i))
		c.do(unix.SYS_SETNS, c.slot(NamespaceSlot(ns.Type), false), symbol(NamespaceFlag(ns.Type), namesClone))
	}
}

// NamespaceSlot is the name of the slot for a namespace that is joined by its path.
func NamespaceSlot(kind specs.LinuxNamespaceType) string { return "namespace " + string(kind) }

// timeOffsets moves the clocks of a new time namespace and enters it: unshare only made it for the children.
func (c *compiler) timeOffsets(fresh uint64) {
	if fresh&unix.CLONE_NEWTIME == 0 {
		return
	}
	clocks := make([]string, 0, 2)
	for clock := range c.spec.Linux.TimeOffsets {
		clocks = append(clocks, clock)
	}
	sort.Strings(clocks)
	var lines strings.Builder
	for _, clock := range clocks {
		o := c.spec.Linux.TimeOffsets[clock]
		fmt.Fprintf(&lines, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
	}
	if lines.Len() > 0 {
		c.on("set clocks", "linux.timeOffsets")
		c.writeFile("/proc/self/timens_offsets", lines.String())
	}
	c.on("enter time namespace", "linux.namespaces")
	c.do(unix.SYS_OPENAT, cwd(), text("/proc/self/ns/time_for_children"), symbol(unix.O_CLOEXEC, namesOpen)).into("file")
	c.do(unix.SYS_SETNS, c.reg("file"), symbol(unix.CLONE_NEWTIME, namesClone))
	c.close("file")
}

// score sets how readily the kernel kills the process when memory is short.
func (c *compiler) score() {
	if s := c.spec.Process.OOMScoreAdj; s != nil {
		c.on(fmt.Sprintf("set oom_score_adj %d", *s), "process.oomScoreAdj")
		c.writeFile("/proc/self/oom_score_adj", fmt.Sprint(*s))
	}
}

// keyring gives the container a session keyring of its own; kernels without keyrings are fine too.
func (c *compiler) keyring() {
	if c.facts.NoNewKeyring {
		return
	}
	c.on("make session keyring", "")
	c.do(unix.SYS_KEYCTL, symbol(unix.KEYCTL_JOIN_SESSION_KEYRING, namesKeyctl), text("_ses."+c.facts.ID)).
		ignore(unix.ENOSYS, unix.EPERM, unix.EDQUOT)
}
