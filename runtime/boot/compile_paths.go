package boot

import (
	"golang.org/x/sys/unix"
)

// hide masks paths and makes others read-only, then the mounts that had to stay writable until everything else was in place.
func (c *compiler) hide() {
	for i, p := range c.spec.Linux.ReadonlyPaths {
		c.on("make "+p+" read-only", index("linux.readonlyPaths", i))
		c.readonlyPath(p)
	}
	c.mask()
	for i, m := range c.spec.Mounts {
		o := parseOptions(m.Options)
		if m.Type == "tmpfs" && !o.bind && (o.set|o.setAll)&unix.MOUNT_ATTR_RDONLY != 0 || m.Type == "cgroup" && o.set&unix.MOUNT_ATTR_RDONLY != 0 {
			c.on("make "+m.Destination+" read-only", index("mounts", i))
			c.inRoot("target", inside(m.Destination), flagsPath)
			c.setattr("target", 0, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
			c.close("target")
		}
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
	c.inRoot("target", inside(p), flagsPath).ignore(unix.ENOENT, unix.ENOTDIR).otherwise(absent)
	c.do(unix.SYS_OPEN_TREE, c.reg("target"), text(""),
		symbol(unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLOEXEC, namesOpenTree)).into("mount")
	c.setattr("mount", unix.AT_RECURSIVE, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	c.move()
	c.close("mount")
	c.close("target")
	c.place(absent)
}

// mask hides paths that are there: files behind the null device, directories behind an empty one.
func (c *compiler) mask() {
	if len(c.spec.Linux.MaskedPaths) == 0 {
		return
	}
	c.on("open null device for masked paths", "linux.maskedPaths")
	c.nullDevice()
	for i, p := range c.spec.Linux.MaskedPaths {
		absent, done := new(label), new(label)
		c.on("mask "+p, index("linux.maskedPaths", i))
		c.inRoot("target", inside(p), flagsPath).ignore(unix.ENOENT, unix.ENOTDIR).otherwise(absent)
		c.do(unix.SYS_OPEN_TREE, c.reg("null"), text(""),
			symbol(unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLOEXEC, namesOpenTree)).into("mount")
		c.move().ignore(unix.EINVAL, unix.ENOTDIR).then(done) // a file does not go on a directory
		c.close("mount")
		c.emptyDirectory()
		c.move()
		c.place(done)
		c.close("mount")
		c.close("target")
		c.place(absent)
	}
	c.close("null")
}

// nullDevice opens the null device as register null: the one just made when /dev is a file system of the container's own, otherwise
// the host's, because what an image brings at /dev/null may be anything.
func (c *compiler) nullDevice() {
	for _, m := range c.spec.Mounts {
		if inside(m.Destination) == "dev" && m.Type == "tmpfs" && !c.users {
			c.inRoot("null", "dev/null", flagsPath|unix.O_NOFOLLOW)
			return
		}
	}
	c.do(unix.SYS_OPENAT, cwd(), text("/dev/null"), symbol(flagsPath, namesOpen)).into("null")
}

// emptyDirectory takes an empty read-only directory as a detached mount into register mount: the one that the container's proc is mounted
// on, so that a checkpoint has no file system more to save, or else a small tmpfs.
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
	c.place(got)
}

// keepEmpty keeps the directory in register target, which proc is going to be mounted on, as register empty.
func (c *compiler) keepEmpty() {
	if len(c.spec.Linux.MaskedPaths) > 0 {
		c.do(unix.SYS_FCNTL, c.reg("target"), symbol(unix.F_DUPFD_CLOEXEC, namesFcntl), number(3)).into("empty")
	}
}
