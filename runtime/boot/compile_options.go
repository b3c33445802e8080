package boot

import (
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mountOptions is a parsed list of fstab-style options.
type mountOptions struct {
	bind, recursive bool
	set, clear      uint64   // attributes of the mount
	setAll, clrAll  uint64   // attributes of it and all mounts below: rro, rnosuid, …
	propagation     uint64   // MS_PRIVATE, MS_SLAVE, …
	propagateAll    bool     // and the mounts below
	data            []string // the rest, for the file system
}

// attribute is an option that is a property of the mount.
type attribute struct {
	name       string
	set, clear uint64
}

// attributes lists them; with an r before the name they mean all mounts below too.
var attributes = []attribute{
	{"ro", unix.MOUNT_ATTR_RDONLY, 0},
	{"rw", 0, unix.MOUNT_ATTR_RDONLY},
	{"nosuid", unix.MOUNT_ATTR_NOSUID, 0},
	{"suid", 0, unix.MOUNT_ATTR_NOSUID},
	{"nodev", unix.MOUNT_ATTR_NODEV, 0},
	{"dev", 0, unix.MOUNT_ATTR_NODEV},
	{"noexec", unix.MOUNT_ATTR_NOEXEC, 0},
	{"exec", 0, unix.MOUNT_ATTR_NOEXEC},
	{"nodiratime", unix.MOUNT_ATTR_NODIRATIME, 0},
	{"diratime", 0, unix.MOUNT_ATTR_NODIRATIME},
	{"nosymfollow", unix.MOUNT_ATTR_NOSYMFOLLOW, 0},
	{"symfollow", 0, unix.MOUNT_ATTR_NOSYMFOLLOW},
	{"relatime", unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
	{"noatime", unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME},
	{"atime", unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
	{"strictatime", unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME},
	{"nostrictatime", unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
}

// propagations are the options about propagation; with an r before the name they mean all mounts below too.
var propagations = map[string]uint64{
	"private": unix.MS_PRIVATE, "slave": unix.MS_SLAVE, "shared": unix.MS_SHARED, "unbindable": unix.MS_UNBINDABLE,
}

// parseOptions sorts the options of a mount.
func parseOptions(options []string) mountOptions {
	var m mountOptions
	for _, o := range options {
		switch o {
		case "defaults", "", "silent", "loud", "async", "norelatime", "nofail", "auto", "noauto", "user", "nouser":
		case "bind":
			m.bind = true
		case "rbind":
			m.bind, m.recursive = true, true
		default:
			m.parse(o)
		}
	}
	return m
}

// parse takes an option that is none of the special ones.
func (m *mountOptions) parse(o string) {
	if p, ok := propagations[o]; ok {
		m.propagation = p
		return
	}
	if p, ok := propagations[strings.TrimPrefix(o, "r")]; ok && o[0] == 'r' {
		m.propagation, m.propagateAll = p, true
		return
	}
	for _, a := range attributes {
		switch o {
		case a.name:
			m.set, m.clear = m.set&^a.clear|a.set, m.clear&^a.set|a.clear
			return
		case "r" + a.name:
			m.setAll, m.clrAll = m.setAll&^a.clear|a.set, m.clrAll&^a.set|a.clear
			return
		}
	}
	m.data = append(m.data, o)
}

// setattr changes the attributes of the mount in a register.
func (b *builder) setattr(register string, flags uint64, a unix.MountAttr) last {
	if a.Attr_set&unix.MOUNT_ATTR__ATIME != 0 {
		a.Attr_clr |= unix.MOUNT_ATTR__ATIME
	}
	return b.do(unix.SYS_MOUNT_SETATTR, b.reg(register), text(""), symbol(flags|unix.AT_EMPTY_PATH, namesAt),
		memory(&a, showAttr), number(unix.MOUNT_ATTR_SIZE_VER0))
}

func showAttr(p unsafe.Pointer) string {
	a := (*unix.MountAttr)(p)
	var parts []string
	if a.Attr_set != 0 {
		parts = append(parts, "set="+namesAttr.format(uintptr(a.Attr_set)))
	}
	if a.Attr_clr != 0 {
		parts = append(parts, "clear="+namesAttr.format(uintptr(a.Attr_clr)))
	}
	if a.Propagation != 0 {
		parts = append(parts, "propagation="+namesMount.format(uintptr(a.Propagation)))
	}
	return fmt.Sprintf("{%s}", strings.Join(parts, ", "))
}
