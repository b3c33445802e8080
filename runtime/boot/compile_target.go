package boot

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// targetKind is what a mountpoint has to be.
type targetKind int

const (
	targetDir  targetKind = iota // made as a directory if it is missing
	targetFile                   // made as an empty file if it is missing
	targetReal                   // a directory that no symbolic link leads to: proc and sysfs, which other steps rely on, get no others
)

// ordinary is what an error says when proc or sysfs would be mounted somewhere else than at its path.
const ordinary = "must be mounted on ordinary directory"

// target opens a path in the container as register target and makes it if it is missing. The label made, if any, is led to when it was
// missing.
//
// Nothing on the way may be a symbolic link. Where there is one the parent finds the place, inside the root file system too, and sees to it
// that it is not in proc: that is rare, and the text of the path says no longer where it leads.
func (c *compiler) target(destination string, kind targetKind, made *label) {
	clean := inside(destination)
	odd, missing, found := new(label), new(label), new(label)
	flags := uint64(flagsPath)
	if kind == targetReal {
		flags = flagsDir
	}
	first := c.straight("target", clean, flags)
	if kind == targetReal {
		first.hint(unix.ELOOP, ordinary).hint(unix.ENOTDIR, ordinary).ignore(unix.ENOENT)
	} else {
		first.ignore(unix.ENOENT, unix.ELOOP)
	}
	first.otherwise(missing).then(found)
	c.place(missing)
	done := found
	if made != nil {
		done = made
	}
	if kind == targetReal {
		c.makeReal(clean)
		c.latest().then(done)
	} else {
		c.makeStraight(clean, kind, odd)
		c.latest().then(done)
		c.place(odd)
		c.askFor(MarkTarget, "target").then(done)
	}
	c.place(found)
}

// makeStraight makes the last part of a path and opens it as register target. What else is missing, and symbolic links, lead to odd.
func (c *compiler) makeStraight(clean string, kind targetKind, odd *label) {
	dir, name := path.Split(clean)
	from := "root"
	if dir != "" {
		from = "dir"
		c.straight("dir", inside(dir), flagsDir).ignore(unix.ENOENT, unix.ELOOP).otherwise(odd)
	}
	if kind == targetFile {
		c.do(unix.SYS_MKNODAT, c.reg(from), text(name), symbol(unix.S_IFREG|0o644, namesMode), number(0)).ignore(unix.EEXIST)
	} else {
		c.do(unix.SYS_MKDIRAT, c.reg(from), text(name), symbol(0o755, namesMode)).ignore(unix.EEXIST)
	}
	c.straightFrom(from, "target", name, flagsPath).ignore(unix.ELOOP).otherwise(odd)
	if from == "dir" {
		c.close("dir")
	}
}

// makeReal makes a path of directories and opens it as register target.
func (c *compiler) makeReal(clean string) {
	from, done := "root", ""
	for part := range strings.SplitSeq(clean, "/") {
		done = path.Join(done, part)
		c.do(unix.SYS_MKDIRAT, c.reg(from), text(part), symbol(0o755, namesMode)).ignore(unix.EEXIST)
		if from == "dir" {
			c.close("dir")
		}
		from = "dir"
		if done == clean {
			from = "target"
		}
		c.straight(from, done, flagsDir).hint(unix.ELOOP, ordinary).hint(unix.ENOTDIR, ordinary)
	}
}

// makeDirs makes the directory dir in the container and all above it, and opens it as register dir. Every step starts from a
// descriptor of a directory that was opened inside the root file system, so that no symbolic link leads out of it.
func (c *compiler) makeDirs(dir string) {
	if dir == "." {
		c.do(unix.SYS_FCNTL, c.reg("root"), symbol(unix.F_DUPFD_CLOEXEC, namesFcntl), number(3)).into("dir")
		return
	}
	found := new(label)
	c.inRoot("dir", dir, flagsDir).ignore(unix.ENOENT).then(found)
	c.do(unix.SYS_FCNTL, c.reg("root"), symbol(unix.F_DUPFD_CLOEXEC, namesFcntl), number(3)).into("dir")
	done := ""
	for part := range strings.SplitSeq(dir, "/") {
		done = path.Join(done, part)
		// EROFS and EACCES tell nothing about whether it is there; the open does.
		c.do(unix.SYS_MKDIRAT, c.reg("dir"), text(part), symbol(0o755, namesMode)).ignore(unix.EEXIST, unix.EROFS, unix.EACCES)
		c.close("dir")
		c.inRoot("dir", done, flagsDir)
	}
	c.place(found)
}

// inside turns a path of the container into one relative to its root: never empty, never with a leading slash or a "..".
func inside(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "."
	}
	return p
}

const (
	insideOnly   = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	straightOnly = insideOnly | unix.RESOLVE_NO_SYMLINKS
)

// inRoot opens a path below register root: symbolic links lead nowhere else, not even absolute ones.
func (c *compiler) inRoot(register, p string, flags uint64) last {
	how := &unix.OpenHow{Flags: flags, Resolve: insideOnly}
	return c.do(unix.SYS_OPENAT2, c.reg("root"), text(p), memory(how, showHow), number(unix.SizeofOpenHow)).into(register)
}

// straight opens a path below register root that has no symbolic link in it.
func (c *compiler) straight(register, p string, flags uint64) last {
	return c.straightFrom("root", register, p, flags)
}

func (c *compiler) straightFrom(from, register, p string, flags uint64) last {
	how := &unix.OpenHow{Flags: flags, Resolve: straightOnly}
	return c.do(unix.SYS_OPENAT2, c.reg(from), text(p), memory(how, showHow), number(unix.SizeofOpenHow)).into(register)
}

func showHow(p unsafe.Pointer) string {
	how := (*unix.OpenHow)(p)
	return "{" + namesOpen.format(uintptr(how.Flags)) + ", " + namesResolve.format(uintptr(how.Resolve)) + "}"
}

var namesResolve = &names{list: []name{
	{unix.RESOLVE_IN_ROOT, "RESOLVE_IN_ROOT"},
	{unix.RESOLVE_NO_MAGICLINKS, "RESOLVE_NO_MAGICLINKS"},
	{unix.RESOLVE_NO_SYMLINKS, "RESOLVE_NO_SYMLINKS"},
	{unix.RESOLVE_NO_XDEV, "RESOLVE_NO_XDEV"},
	{unix.RESOLVE_BENEATH, "RESOLVE_BENEATH"},
}}

// shownInProc are the files in /proc that may be mounted over: a file system in user space shows the container's own numbers there.
var shownInProc = []string{
	"cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "net/dev", "sys/kernel/ns_last_pid",
	"sys/crypto/fips_enabled",
}

// checkPlace refuses mountpoints that would put something in place of what later steps or the container's programs take for the kernel's:
// the root itself and what is in /proc (CVE-2019-16884).
func (c *compiler) checkPlace(i int, kind string, bind, remount bool) bool {
	m := &c.spec.Mounts[i]
	refuse := func(why string) bool {
		c.fail(fmt.Errorf("mount %s on %s: %q %s (%s: %s.destination)", mountName(*m), m.Destination, m.Destination, why,
			c.facts.Document, index("mounts", i)))
		return false
	}
	clean := inside(m.Destination)
	name, below := strings.CutPrefix(clean, "proc/")
	switch {
	case remount:
		return true
	case clean == ".":
		return refuse("is on the top of rootfs")
	case clean == "proc" && !bind && kind != "proc":
		return refuse("cannot be mounted because it is not of type proc")
	case below && !slices.Contains(shownInProc, name):
		return refuse("cannot be mounted because it is inside /proc")
	}
	return true
}
