package boot

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"unsafe"

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

// namespaces enters the namespaces: first joins those that have a path, then makes the others, so that what is new belongs to the user
// namespace that was joined. The pid namespace and a new user namespace are there from birth; the cgroup namespace comes after the cgroup
// was joined, which is then its root; a mount namespace is joined last (joinMount), because all that is set through /proc is set through
// the host's.
func (c *compiler) namespaces() {
	const atBirth = unix.CLONE_NEWPID | unix.CLONE_NEWUSER
	fresh, joined := c.sortNamespaces()
	c.users = (fresh|joined)&unix.CLONE_NEWUSER != 0
	c.hostMounts = (fresh|joined)&unix.CLONE_NEWNS == 0
	c.p.CloneFlags = fresh & atBirth
	enters := joined&unix.CLONE_NEWUSER != 0
	if enters {
		c.p.CloneFlags &^= unix.CLONE_NEWPID // it is made inside
	}
	c.mapUsers(fresh)
	c.anywhere()
	c.joinCgroup("linux.cgroupsPath")
	if fresh&unix.CLONE_NEWUSER == 0 { // otherwise the parent does it, which may
		c.score()
	}
	c.joinNamespaces(enters)
	if fresh&unix.CLONE_NEWUSER != 0 {
		fresh &^= unix.CLONE_NEWTIME // mapUsers has made it
	}
	if unshare := fresh &^ atBirth; unshare != 0 {
		c.on("make namespaces", "linux.namespaces")
		c.do(unix.SYS_UNSHARE, symbol(unshare, namesClone))
	}
	c.loopback(fresh)
	c.timeOffsets(fresh)
	switch {
	case enters && fresh&unix.CLONE_NEWPID != 0:
		c.on("make pid namespace", "linux.namespaces")
		c.rebirth(unix.CLONE_NEWPID)
	case enters && joined&unix.CLONE_NEWPID != 0 && c.facts.Unprivileged:
		c.rebirth(0)
	}
	c.on("become session leader", "")
	c.do(unix.SYS_SETSID)
	c.keyring()
}

// sortNamespaces returns the clone flags of the namespaces to make and of those to join.
func (c *compiler) sortNamespaces() (fresh, joined uint64) {
	for i, ns := range c.spec.Linux.Namespaces {
		flag := NamespaceFlag(ns.Type)
		switch {
		case flag == 0 || (fresh|joined)&flag != 0:
			c.fail(fmt.Errorf("compile %s: %q is unknown or there twice (%[1]s: %[3]s)", c.facts.Document, ns.Type, index("linux.namespaces", i)))
		case ns.Path == "":
			fresh |= flag
		default:
			joined |= flag
		}
	}
	return fresh, joined
}

// mapUsers waits until the parent has written the id maps and then becomes root in the new user namespace.
func (c *compiler) mapUsers(fresh uint64) {
	if fresh&unix.CLONE_NEWUSER == 0 {
		return
	}
	c.on(MarkMaps, "linux.uidMappings")
	c.do(opAwait)
	if fresh&unix.CLONE_NEWTIME != 0 { // the file with the offsets belongs to the host's root, which this process is until it becomes another
		c.on("make time namespace", "linux.namespaces")
		c.do(unix.SYS_UNSHARE, symbol(unix.CLONE_NEWTIME, namesClone))
		c.timeOffsets(fresh)
	}
	c.becomeRoot("linux.uidMappings")
}

// becomeRoot takes the ids that rule a user namespace.
func (c *compiler) becomeRoot(path string) {
	c.on("become root in the user namespace", path)
	c.do(unix.SYS_SETRESGID, number(0), number(0), number(0)).hint(unix.EINVAL, "the namespace has to map group 0")
	c.do(unix.SYS_SETRESUID, number(0), number(0), number(0)).hint(unix.EINVAL, "the namespace has to map user 0")
}

// joinNamespaces enters the namespaces that have a path. The parent opened them. Which come before the user namespace and which after it
// depends on whose they are: one of the host's can only be joined before, one that belongs to a user namespace of somebody without
// privileges only after.
func (c *compiler) joinNamespaces(user bool) {
	each := func(f func(kind specs.LinuxNamespaceType, call func() last)) {
		for i, ns := range c.spec.Linux.Namespaces {
			switch ns.Type {
			case specs.UserNamespace, specs.MountNamespace:
				continue
			case specs.PIDNamespace:
				if !user || !c.facts.Unprivileged {
					continue // the parent's business
				}
			}
			if ns.Path != "" {
				f(ns.Type, func() last { return c.join(i) })
			}
		}
	}
	if !user {
		each(func(_ specs.LinuxNamespaceType, join func() last) { join() })
		return
	}
	each(func(kind specs.LinuxNamespaceType, join func() last) {
		join().into("joined " + string(kind)).ignore(unix.EPERM)
	})
	i := slices.IndexFunc(c.spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace })
	c.join(i)
	c.becomeRoot(index("linux.namespaces", i))
	each(func(kind specs.LinuxNamespaceType, join func() last) {
		done := new(label)
		c.do(opHas, c.reg("joined "+string(kind))).ignore(unix.EBADF).then(done)
		join()
		c.place(done)
	})
}

// join enters one namespace of the list.
func (c *compiler) join(i int) last {
	ns := c.spec.Linux.Namespaces[i]
	c.on(fmt.Sprintf("join %s namespace %s", ns.Type, ns.Path), index("linux.namespaces", i))
	return c.do(unix.SYS_SETNS, c.slot(NamespaceSlot(ns.Type), false), symbol(NamespaceFlag(ns.Type), namesClone))
}

// joinMount enters a mount namespace that has a path.
func (c *compiler) joinMount() {
	for i, ns := range c.spec.Linux.Namespaces {
		if ns.Type == specs.MountNamespace && ns.Path != "" {
			c.join(i)
		}
	}
}

// rebirth has the rest of the program done by another process, a sibling of this one and a child of the parent: it is the first of the pid
// namespace that this one has made or joined.
func (c *compiler) rebirth(flags uint64) {
	c.p.reborn = true
	c.do(opBirth, memory(&cloneArgs{flags: unix.CLONE_PARENT | flags}, showClone))
}

func showClone(p unsafe.Pointer) string {
	return "{" + namesClone.format(uintptr((*cloneArgs)(p).flags)) + "}"
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
	c.inProc("/proc/self/ns/time_for_children", unix.O_RDONLY, 0)
	c.do(unix.SYS_SETNS, c.reg("file"), symbol(unix.CLONE_NEWTIME, namesClone))
	c.close("file")
}

// score sets how readily the kernel kills the process when memory is short.
func (c *compiler) score() {
	if s := c.spec.Process.OOMScoreAdj; s != nil {
		c.on(fmt.Sprintf("set oom_score_adj %d", *s), "process.oomScoreAdj")
		written := c.writeFile("/proc/self/oom_score_adj", fmt.Sprint(*s))
		if c.facts.Unprivileged {
			written.ignore(unix.EACCES, unix.EPERM) // nobody else may lower it
		}
	}
}

// keyring gives the container a session keyring of its own, which an exec finds again by its name; kernels without keyrings are fine too.
func (c *compiler) keyring() {
	if c.facts.NoNewKeyring {
		return
	}
	// What a keyring is made with, and for those who look it up by name: in a user namespace these are strangers.
	const asMade, userSearch, otherSearch = 0x3f130000, 0x80000, 0x8
	permissions := asMade | userSearch
	if c.users {
		permissions = asMade | otherSearch
	}
	none := new(label)
	c.on("make session keyring", "")
	c.do(unix.SYS_KEYCTL, symbol(unix.KEYCTL_JOIN_SESSION_KEYRING, namesKeyctl), text("_ses."+c.facts.ID)).into("keyring").
		ignore(unix.ENOSYS, unix.EPERM, unix.EDQUOT, unix.EACCES).otherwise(none)
	c.do(unix.SYS_KEYCTL, symbol(unix.KEYCTL_SETPERM, namesKeyctl), c.reg("keyring"), symbol(permissions, namesKeys)).tolerant()
	c.place(none)
}

var namesKeys = &names{}
