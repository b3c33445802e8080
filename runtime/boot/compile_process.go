package boot

import (
	"fmt"
	"slices"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// workingDir makes the working directory if it is missing: it may be the first thing that is ever asked of an image.
func (c *compiler) workingDir() {
	dir := inside(c.spec.Process.Cwd)
	c.on("make working directory "+c.spec.Process.Cwd, "process.cwd")
	found := new(label)
	c.inRoot("dir", dir, flagsPath).ignore(unix.ENOENT).then(found)
	c.makeDirs(dir)
	c.place(found)
	c.close("dir")
}

// pivot makes the root file system the process's root and lets go of the host's.
func (c *compiler) pivot() {
	switch {
	case c.hostMounts: // the host's root is not to be exchanged
		c.on("change root", "root.path")
		c.do(unix.SYS_FCHDIR, c.reg("root"))
		c.do(unix.SYS_CHROOT, text("."))
		c.do(unix.SYS_CHDIR, text("/"))
	case c.facts.NoPivot:
		c.on("move root to /", "root.path")
		c.do(unix.SYS_FCHDIR, c.reg("root"))
		c.do(unix.SYS_MOUNT, text("."), text("/"), null(), symbol(unix.MS_MOVE, namesMount), null())
		c.detachHost()
		c.do(unix.SYS_CHROOT, text("."))
		c.do(unix.SYS_CHDIR, text("/"))
	default:
		c.on("pivot to root", "root.path")
		c.do(unix.SYS_OPENAT, cwd(), text("/"), symbol(flagsDir, namesOpen)).into("host")
		c.do(unix.SYS_FCHDIR, c.reg("root"))
		c.do(unix.SYS_PIVOT_ROOT, text("."), text("."))
		c.on("detach the host's root", "")
		c.do(unix.SYS_FCHDIR, c.reg("host"))
		c.do(unix.SYS_MOUNT, null(), text("."), null(), symbol(unix.MS_REC|unix.MS_SLAVE, namesMount), null())
		c.do(unix.SYS_UMOUNT2, text("."), symbol(unix.MNT_DETACH, namesUmount))
		c.do(unix.SYS_CHDIR, text("/"))
	}
	if p := c.spec.Linux.RootfsPropagation; p != "" {
		c.on("set propagation of / to "+p, "linux.rootfsPropagation")
		flags := propagations[p]
		if flags == 0 {
			flags = propagations[strings.TrimPrefix(p, "r")] | unix.MS_REC
		}
		c.do(unix.SYS_MOUNT, null(), text("/"), null(), symbol(flags, namesMount), null())
	}
}

// process makes the process what the specification says it is, up to the point where it is only to be executed.
func (c *compiler) process(p *specs.Process) {
	c.on("close the runtime's descriptors", "")
	c.do(opClose, number(1))
	c.chdir(p)
	c.limits(p)
	c.schedule(p)
	c.identity(p)
	if p.NoNewPrivileges {
		c.on("set no_new_privs", "process.noNewPrivileges")
		c.do(unix.SYS_PRCTL, symbol(unix.PR_SET_NO_NEW_PRIVS, namesPrctl), number(1), number(0), number(0), number(0))
	}
	umask := uint32(0o022)
	if p.User.Umask != nil {
		umask = *p.User.Umask
	}
	c.on("set umask", "process.user.umask")
	c.do(unix.SYS_UMASK, symbol(umask, namesMode))
	c.lookup(p)
}

// chdir changes to the working directory. No descriptor of the host's is open any more, so that no path through /proc/self/fd leads
// there; a directory outside the root would show by a path that begins with "(unreachable)".
func (c *compiler) chdir(p *specs.Process) {
	c.on("change to working directory "+p.Cwd, "process.cwd")
	c.do(unix.SYS_CHDIR, text(p.Cwd))
	buf := new([4096]byte)
	c.do(unix.SYS_GETCWD, memory(buf, showBytes), number(len(buf)))
	c.do(opExpect, memory(buf, showBytes), text("/"), number(1))
}

// limits sets the resource limits. One on descriptors is always set: Go programs raise their own, and zap's is not to be inherited.
func (c *compiler) limits(p *specs.Process) {
	nofile := false
	for i, r := range p.Rlimits {
		resource := slices.Index(limitNames[:], strings.TrimPrefix(r.Type, "RLIMIT_"))
		if resource < 0 {
			c.fail(fmt.Errorf("compile %s: limit %q is unknown (%[1]s: %[3]s)", c.facts.Document, r.Type, index("process.rlimits", i)))
		}
		nofile = nofile || resource == unix.RLIMIT_NOFILE
		c.on("set limit "+r.Type, index("process.rlimits", i))
		c.limit(resource, unix.Rlimit{Cur: r.Soft, Max: r.Hard})
	}
	if !nofile && c.facts.Nofile.Max != 0 {
		c.on("set limit RLIMIT_NOFILE", "")
		c.limit(unix.RLIMIT_NOFILE, c.facts.Nofile)
	}
}

func (c *compiler) limit(resource int, r unix.Rlimit) {
	c.do(unix.SYS_PRLIMIT64, number(0), symbol(resource, namesLimit), memory(&r, showLimit), null())
}

// limitNames are the resources of setrlimit(2) by their numbers, which are the same on all machines that zap builds for.
var limitNames = [...]string{
	"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO",
	"RTTIME",
}

func showLimit(p unsafe.Pointer) string {
	r := (*unix.Rlimit)(p)
	return fmt.Sprintf("{cur=%d, max=%d}", r.Cur, r.Max)
}

// identity changes to the user, its groups and capabilities.
func (c *compiler) identity(p *specs.Process) {
	sets := parseCapabilities(p.Capabilities)
	if held := c.facts.Capabilities; held != 0 && !c.users {
		sets.limit(held)
	}
	sets.ambient &= sets.permitted & sets.inheritable // the kernel raises no others, and the default of runc 1.1 names some
	c.bounding(sets.bounding)
	c.on(fmt.Sprintf("become user %d:%d", p.User.UID, p.User.GID), "process.user")
	c.do(unix.SYS_PRCTL, symbol(unix.PR_SET_KEEPCAPS, namesPrctl), number(1), number(0), number(0), number(0))
	c.groups(p.User.AdditionalGids)
	c.do(unix.SYS_SETRESGID, number(p.User.GID), number(p.User.GID), number(p.User.GID))
	c.do(unix.SYS_SETRESUID, number(p.User.UID), number(p.User.UID), number(p.User.UID))
	c.do(unix.SYS_PRCTL, symbol(unix.PR_SET_KEEPCAPS, namesPrctl), number(0), number(0), number(0), number(0))
	// What a process may become by way of /proc/PID/exe is decided by this: the runtime's binary stays out of the container's reach.
	c.do(unix.SYS_PRCTL, symbol(unix.PR_SET_DUMPABLE, namesPrctl), number(c.dumpable()), number(0), number(0), number(0))
	c.keepForFilter(sets, p.NoNewPrivileges)
}

// dumpable is 1 where a runtime without privileges has to enter the container's namespaces before the program runs, for its startContainer
// hooks: the kernel lets it do so in no other way.
func (c *compiler) dumpable() int {
	if h := c.spec.Hooks; c.facts.Unprivileged && h != nil && len(h.StartContainer) > 0 {
		return 1
	}
	return 0
}

// groups sets the supplementary groups; without any it clears the list.
func (c *compiler) groups(gids []uint32) {
	if len(gids) == 0 {
		call := c.do(unix.SYS_SETGROUPS, number(0), null())
		if c.users {
			call.ignore(unix.EPERM) // a user namespace made without privileges forbids it
		}
		return
	}
	list := append([]uint32(nil), gids...)
	show := func(unsafe.Pointer) string { return fmt.Sprint(list) }
	what, path := c.what, strings.TrimPrefix(c.origin, c.document+": ")
	c.on(fmt.Sprintf("set groups %v", gids), "process.user.additionalGids")
	call := c.do(unix.SYS_SETGROUPS, number(len(list)), memory(&list[0], show))
	if c.users {
		const text = "cannot set any additional groups in a rootless container with one group mapped, nor others than are mapped"
		call.hint(unix.EPERM, text).hint(unix.EINVAL, text)
	}
	c.on(what, path)
}
