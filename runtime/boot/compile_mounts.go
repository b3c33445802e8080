package boot

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	flagsDir  = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	flagsPath = unix.O_PATH | unix.O_CLOEXEC
)

// root makes the root file system a mount of its own and keeps it in register root: everything else is found from there, on
// descriptors and never outside.
func (c *compiler) root() {
	c.on("set propagation of /", "linux.rootfsPropagation")
	flags := uint64(unix.MS_REC | unix.MS_SLAVE)
	if p := c.spec.Linux.RootfsPropagation; strings.TrimPrefix(p, "r") == "private" {
		flags = unix.MS_REC | unix.MS_PRIVATE
	}
	c.do(unix.SYS_MOUNT, null(), text("/"), null(), symbol(flags, namesMount), null())
	if o := c.facts.Overlay; o != nil {
		c.overlay(o)
		return
	}
	c.on("open root "+c.facts.Root, "root.path")
	c.do(unix.SYS_OPEN_TREE, cwd(), text(c.facts.Root),
		symbol(unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.OPEN_TREE_CLOEXEC, namesOpenTree)).into("root")
	c.on("mount root "+c.facts.Root, "root.path")
	c.setattr("root", 0, unix.MountAttr{Propagation: unix.MS_PRIVATE})
	c.do(unix.SYS_MOVE_MOUNT, c.reg("root"), text(""), cwd(), text(c.facts.Root), symbol(unix.MOVE_MOUNT_F_EMPTY_PATH, namesMove))
}

// overlay mounts the layers on top of the upper directory: it is a directory that is always there, and in this mount namespace
// nothing else looks at it. The host never sees the mount. It is a classic mount(2) because fsconfig takes at most 255 bytes.
func (c *compiler) overlay(o *Overlay) {
	c.on("mount overlay on /", "root")
	escape := strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`)
	lower := make([]string, len(o.Lower))
	for i, l := range o.Lower {
		lower[i] = escape.Replace(l)
	}
	data := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + escape.Replace(o.Upper) + ",workdir=" + escape.Replace(o.Work)
	c.do(unix.SYS_MOUNT, text("overlay"), text(o.Upper), text("overlay"), number(0), text(data))
	c.do(unix.SYS_OPENAT, cwd(), text(o.Upper), symbol(flagsDir, namesOpen)).into("root")
}

// mounts carries out the list of mounts.
func (c *compiler) mounts() {
	for i, m := range c.spec.Mounts {
		c.on(fmt.Sprintf("mount %s on %s", mountName(m), m.Destination), index("mounts", i))
		if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
			c.fail(fmt.Errorf("compile %s: id mapped mounts are not supported yet (%[1]s: %[2]s)", c.facts.Document, index("mounts", i)))
		}
		o := parseOptions(m.Options)
		o.bind = o.bind || m.Type == "bind"
		switch {
		case o.bind:
			c.bind(m, o)
		case m.Type == "cgroup":
			c.cgroups(m, o)
		default:
			c.fresh(m.Type, m.Source, o)
			c.attach(m.Destination, m.Type, o)
		}
	}
}

// mountName is what an error calls a mount.
func mountName(m specs.Mount) string {
	if m.Type == "" || m.Type == "bind" || m.Type == "none" {
		return m.Source
	}
	return m.Type
}

// fresh makes a file system that is not attached yet, in register mount.
func (c *compiler) fresh(kind, source string, o mountOptions) {
	c.do(unix.SYS_FSOPEN, text(kind), symbol(unix.FSOPEN_CLOEXEC, namesFsopen)).into("context")
	if source != "" {
		c.config("source", source)
	}
	for _, d := range o.data {
		key, value, assigned := strings.Cut(d, "=")
		if assigned {
			c.config(key, value)
			continue
		}
		c.do(unix.SYS_FSCONFIG, c.reg("context"), symbol(unix.FSCONFIG_SET_FLAG, namesFsconfig), text(key), null(), number(0))
	}
	c.do(unix.SYS_FSCONFIG, c.reg("context"), symbol(unix.FSCONFIG_CMD_CREATE, namesFsconfig), null(), null(), number(0))
	set := o.set | o.setAll
	if kind == "tmpfs" {
		set &^= unix.MOUNT_ATTR_RDONLY // until everything below is mounted
	}
	c.do(unix.SYS_FSMOUNT, c.reg("context"), symbol(unix.FSMOUNT_CLOEXEC, namesFsmount), symbol(set, namesAttr)).into("mount")
	c.close("context")
}

// config sets a string option of the file system that is being made.
func (c *compiler) config(key, value string) {
	c.do(unix.SYS_FSCONFIG, c.reg("context"), symbol(unix.FSCONFIG_SET_STRING, namesFsconfig), text(key), text(value), number(0))
}

// bind clones a part of the host's tree.
func (c *compiler) bind(m specs.Mount, o mountOptions) {
	source := m.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(c.facts.Bundle, source)
	}
	c.clone(source, o.recursive)
	if o.set|o.clear != 0 {
		c.setattr("mount", 0, unix.MountAttr{Attr_set: o.set, Attr_clr: o.clear})
	}
	if o.setAll|o.clrAll != 0 {
		c.setattr("mount", unix.AT_RECURSIVE, unix.MountAttr{Attr_set: o.setAll, Attr_clr: o.clrAll})
	}
	kind := ""
	if c.facts.Files[m.Source] {
		kind = kindFile
	}
	c.attach(m.Destination, kind, o)
}

// clone takes a host path as a detached mount into register mount.
func (c *compiler) clone(source string, recursive bool) {
	flags := uint64(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	c.do(unix.SYS_OPEN_TREE, cwd(), text(source), symbol(flags, namesOpenTree)).into("mount")
}

// kindFile is the kind of a mount that is a file and no directory.
const kindFile = "file"

// attach puts the mount in register mount on a path in the container, which it makes if it is missing. The kind is the type of the file
// system where that matters.
func (c *compiler) attach(destination, kind string, o mountOptions) {
	c.target(destination, kind == kindFile)
	if kind == "proc" {
		c.keepEmpty()
	}
	c.move()
	if o.propagation != 0 {
		flags := uint64(0)
		if o.propagateAll {
			flags = unix.AT_RECURSIVE
		}
		c.setattr("mount", flags, unix.MountAttr{Propagation: o.propagation})
	}
	c.close("target")
	c.close("mount")
}

// move puts the mount in register mount on the one in register target.
func (c *compiler) move() last {
	return c.do(unix.SYS_MOVE_MOUNT, c.reg("mount"), text(""), c.reg("target"), text(""),
		symbol(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH, namesMove))
}

// target opens a path in the container as register target and makes it, a directory or an empty file, if it is missing.
func (c *compiler) target(destination string, file bool) {
	found := new(label)
	clean := inside(destination)
	c.inRoot("target", clean, flagsPath).ignore(unix.ENOENT).then(found)
	if file {
		dir, name := path.Split(clean)
		c.makeDirs(inside(dir))
		c.do(unix.SYS_MKNODAT, c.reg("dir"), text(name), symbol(unix.S_IFREG|0o644, namesMode), number(0)).ignore(unix.EEXIST)
		c.close("dir")
		c.inRoot("target", clean, flagsPath)
	} else {
		c.makeDirs(clean)
		c.do(unix.SYS_FCNTL, c.reg("dir"), symbol(unix.F_DUPFD_CLOEXEC, namesFcntl), number(3)).into("target")
		c.close("dir")
	}
	c.place(found)
}

// makeDirs makes the directory dir in the container and all above it, and opens it as register dir. Every step starts from a
// descriptor of a directory that was opened inside the root file system, so that no symbolic link leads out of it.
func (c *compiler) makeDirs(dir string) {
	c.do(unix.SYS_FCNTL, c.reg("root"), symbol(unix.F_DUPFD_CLOEXEC, namesFcntl), number(3)).into("dir")
	if dir == "." {
		return
	}
	done := ""
	for part := range strings.SplitSeq(dir, "/") {
		done = path.Join(done, part)
		// EROFS and EACCES tell nothing about whether it is there; the open does.
		c.do(unix.SYS_MKDIRAT, c.reg("dir"), text(part), symbol(0o755, namesMode)).ignore(unix.EEXIST, unix.EROFS, unix.EACCES)
		c.close("dir")
		c.inRoot("dir", done, flagsDir)
	}
}

// inside turns a path of the container into one relative to its root: never empty, never with a leading slash or a "..".
func inside(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	if p == "" {
		return "."
	}
	return p
}

// inRoot opens a path below register root: symbolic links lead nowhere else, not even absolute ones.
func (c *compiler) inRoot(register, p string, flags uint64) last {
	how := &unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	return c.do(unix.SYS_OPENAT2, c.reg("root"), text(p), memory(how, showHow), number(unix.SizeofOpenHow)).into(register)
}

func showHow(p unsafe.Pointer) string {
	how := (*unix.OpenHow)(p)
	return "{" + namesOpen.format(uintptr(how.Flags)) + ", RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS}"
}

// cgroups shows the container its cgroup: with v1 one directory for each hierarchy on a small tmpfs, with v2 alone the directory.
func (c *compiler) cgroups(m specs.Mount, o mountOptions) {
	attrs := unix.MountAttr{Attr_set: o.set | o.setAll, Attr_clr: o.clear | o.clrAll}
	plain := mountOptions{propagation: o.propagation, propagateAll: o.propagateAll}
	if len(c.facts.Cgroups) == 1 && c.facts.Cgroups[0].Name == "" {
		c.clone(c.facts.Cgroups[0].Dir, false)
		c.setattr("mount", 0, attrs)
		c.attach(m.Destination, "", plain)
		return
	}
	c.fresh("tmpfs", "tmpfs", mountOptions{set: o.set, data: []string{"mode=755"}})
	c.attach(m.Destination, "", plain)
	for _, g := range c.facts.Cgroups {
		c.what = "mount cgroup " + g.Name + " on " + m.Destination
		c.clone(g.Dir, false)
		c.setattr("mount", 0, attrs)
		c.attach(path.Join(m.Destination, g.Name), "", plain)
		if len(g.Links) > 0 {
			c.makeDirs(inside(m.Destination))
			for _, l := range g.Links {
				c.do(unix.SYS_SYMLINKAT, text(g.Name), c.reg("dir"), text(l)).ignore(unix.EEXIST)
			}
			c.close("dir")
		}
	}
}
