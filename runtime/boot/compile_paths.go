package boot

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hide masks paths and makes others read-only, then the mounts that had to stay writable until everything else was in place.
func (c *compiler) hide() {
	for i, p := range c.spec.Linux.ReadonlyPaths {
		c.on("make "+p+" read-only", index("linux.readonlyPaths", i))
		c.readonlyPath(p)
	}
	c.mask()
	for _, l := range c.late {
		c.on("make "+c.spec.Mounts[l.mount].Destination+" read-only", index("mounts", l.mount))
		c.setattr(l.register, 0, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		c.close(l.register)
	}
	if c.spec.Root != nil && c.spec.Root.Readonly {
		c.on("make / read-only", "root.readonly")
		c.inRoot("target", ".", flagsPath)
		c.setattr("target", 0, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		c.close("target")
	}
}

// readonlyPath covers a path, if it is there, with a read-only clone of itself and of what is mounted below.
func (c *compiler) readonlyPath(p string) {
	absent := new(label)
	c.find(p).ignore(unix.ENOENT, unix.ENOTDIR).otherwise(absent)
	c.do(unix.SYS_OPEN_TREE, c.reg("target"), text(""),
		symbol(unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLOEXEC, namesOpenTree)).into("mount")
	c.setattr("mount", unix.AT_RECURSIVE, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	c.move()
	c.close("mount")
	c.close("target")
	c.place(absent)
}

// mask hides paths that are there: files behind the null device, directories behind an empty one. It looks at what is there first: to
// close a mount that could not be attached waits for all processors of the machine, for milliseconds.
func (c *compiler) mask() {
	if len(c.spec.Linux.MaskedPaths) == 0 {
		return
	}
	c.on("open null device for masked paths", "linux.maskedPaths")
	c.nullDevice()
	masked := map[string]bool{}
	st, directory, kind := new(unix.Stat_t), uint32(unix.S_IFDIR), uint32(unix.S_IFMT)
	for i, p := range c.spec.Linux.MaskedPaths {
		if masked[inside(p)] {
			continue
		}
		masked[inside(p)] = true
		absent, file, done := new(label), new(label), new(label)
		c.on("mask "+p, index("linux.maskedPaths", i))
		c.find(p).ignore(unix.ENOENT, unix.ENOTDIR).otherwise(absent)
		c.do(unix.SYS_FSTAT, c.reg("target"), memory(st, showStat))
		expect(&c.builder, &st.Mode, &directory, &kind, showMode).ignore(unix.EXDEV).otherwise(file)
		c.emptyDirectory()
		c.move().then(done)
		c.place(file)
		c.do(unix.SYS_OPEN_TREE, c.reg("null"), text(""),
			symbol(unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLOEXEC, namesOpenTree)).into("mount")
		c.move()
		c.place(done)
		c.close("mount")
		c.close("target")
		c.place(absent)
	}
	c.close("null")
}

// nullDevice opens the null device as register null: the one just made when /dev is a file system of the container's own, which a
// checkpoint has less trouble with, otherwise the host's. What stands in the container at /dev/null may be anything (CVE-2025-31133), so it
// is looked at by the descriptor that is then used.
func (c *compiler) nullDevice() {
	host, done := new(label), new(label)
	own := slices.ContainsFunc(c.spec.Mounts, func(m specs.Mount) bool { return inside(m.Destination) == "dev" && m.Type == "tmpfs" })
	if own && !c.users {
		st, kind, mask, device := new(unix.Stat_t), uint32(unix.S_IFCHR), uint32(unix.S_IFMT), unix.Mkdev(1, 3)
		c.straight("null", "dev/null", flagsPath|unix.O_NOFOLLOW).tolerant().otherwise(host)
		c.do(unix.SYS_FSTAT, c.reg("null"), memory(st, showStat))
		expect(&c.builder, &st.Mode, &kind, &mask, showMode).ignore(unix.EXDEV).otherwise(host)
		expect(&c.builder, &st.Rdev, &device, nil, showDevice).ignore(unix.EXDEV).otherwise(host).then(done)
		c.place(host)
	}
	c.do(unix.SYS_OPENAT, cwd(), text("/dev/null"), symbol(flagsPath, namesOpen)).into("null")
	c.place(done)
}

// emptyDirectory takes an empty read-only directory as a detached mount into register mount: the one that the container's proc is mounted
// on, so that a checkpoint has no file system more to save, or else a small tmpfs, the same for all.
func (c *compiler) emptyDirectory() {
	readonly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC}
	got, none := new(label), new(label)
	c.do(unix.SYS_OPEN_TREE, c.reg("empty"), text(""),
		symbol(unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLOEXEC, namesOpenTree)).
		into("mount").ignore(unix.EBADF).otherwise(none)
	c.setattr("mount", 0, readonly).then(got)
	c.place(none)
	c.fresh("tmpfs", "tmpfs", mountOptions{data: []string{"mode=755"}})
	c.setattr("mount", 0, readonly)
	c.do(unix.SYS_FCNTL, c.reg("mount"), symbol(unix.F_DUPFD_CLOEXEC, namesFcntl), number(3)).into("empty")
	c.place(got)
}

// keepEmpty keeps the directory in register target, which proc is going to be mounted on, as register empty.
func (c *compiler) keepEmpty() {
	if len(c.spec.Linux.MaskedPaths) > 0 {
		c.do(unix.SYS_FCNTL, c.reg("target"), symbol(unix.F_DUPFD_CLOEXEC, namesFcntl), number(3)).into("empty")
	}
}
