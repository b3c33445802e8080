package boot

import (
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mountOptions is a parsed list of fstab-style options.
type mountOptions struct {
	bind, recursive bool
	remount         bool
	copyUp          bool // fill a tmpfs with what is at its place
	idmap, idmapAll bool
	set, clear      uint64        // attributes of the mount
	given           bool          // one of the attributes is named, whatever it says
	times           uint64        // what is said of access times, by the flags of mount(2)
	setAll, clrAll  uint64        // attributes of it and all mounts below: rro, rnosuid, …
	propagation     []propagation // in order: slave and then shared is both
	flags           []string      // of the file system, which fsconfig(2) sets by name: sync, lazytime, …
	old             uint64        // of the file system, which only mount(2) sets: MS_I_VERSION, MS_POSIXACL
	data            []string      // the rest, for the file system
}

// propagation is a change of a mount's propagation.
type propagation struct {
	kind uint64 // MS_PRIVATE, MS_SLAVE, …
	all  bool   // and of the mounts below
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
	{"norelatime", 0, 0}, // relatime is what mounts have that are told nothing else
	{"noatime", unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR__ATIME},
	{"atime", unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
	{"strictatime", unix.MOUNT_ATTR_STRICTATIME, unix.MOUNT_ATTR__ATIME},
	{"nostrictatime", unix.MOUNT_ATTR_RELATIME, unix.MOUNT_ATTR__ATIME},
}

// propagations are the options about propagation; with an r before the name they mean all mounts below too.
var propagations = map[string]uint64{
	"private": unix.MS_PRIVATE, "slave": unix.MS_SLAVE, "shared": unix.MS_SHARED, "unbindable": unix.MS_UNBINDABLE,
}

// superFlags are the options that are flags of the file system, by the name of the flag; "" takes the one with no before it away.
var superFlags = map[string]struct{ set, clear string }{
	"sync": {set: "sync"}, "async": {clear: "sync"},
	"dirsync":  {set: "dirsync"},
	"lazytime": {set: "lazytime"}, "nolazytime": {clear: "lazytime"},
	"mand": {set: "mand"}, "nomand": {clear: "mand"},
}

// oldFlags are those that mount(2) knows and fsconfig(2) does not.
var oldFlags = map[string]struct{ set, clear uint64 }{
	"iversion": {set: unix.MS_I_VERSION}, "noiversion": {clear: unix.MS_I_VERSION},
	"acl": {set: unix.MS_POSIXACL}, "noacl": {clear: unix.MS_POSIXACL},
}

// parseOptions sorts the options of a mount: the table of config.md, and all others for the file system.
func parseOptions(options []string) mountOptions {
	var m mountOptions
	for _, o := range options {
		switch o {
		case "", "defaults", "silent", "loud":
		case "bind":
			m.bind = true
		case "rbind":
			m.bind, m.recursive = true, true
		case "remount":
			m.remount = true
		case "tmpcopyup":
			m.copyUp = true
		case "idmap":
			m.idmap = true
		case "ridmap":
			m.idmap, m.idmapAll = true, true
		default:
			m.parse(o)
		}
	}
	return m
}

// parse takes an option that is none of the special ones.
func (m *mountOptions) parse(o string) {
	if kind, ok := propagations[o]; ok {
		m.propagation = append(m.propagation, propagation{kind, false})
		return
	}
	if kind, ok := propagations[strings.TrimPrefix(o, "r")]; ok {
		m.propagation = append(m.propagation, propagation{kind, true})
		return
	}
	if f, ok := superFlags[o]; ok {
		m.flags = slices.DeleteFunc(m.flags, func(have string) bool { return have == f.set || have == f.clear })
		if f.set != "" {
			m.flags = append(m.flags, f.set)
		}
		return
	}
	if f, ok := oldFlags[o]; ok {
		m.old = m.old&^f.clear | f.set
		return
	}
	for _, a := range attributes {
		switch o {
		case a.name:
			m.given = true
			m.times = m.times&^timeOptions[o].clear | timeOptions[o].set
			m.set, m.clear = m.set&^a.clear|a.set, m.clear&^a.set|a.clear
			return
		case "r" + a.name:
			m.setAll, m.clrAll = m.setAll&^a.clear|a.set, m.clrAll&^a.set|a.clear
			return
		}
	}
	m.data = append(m.data, o)
}

// readonly says whether the mount itself becomes read-only.
func (m *mountOptions) readonly() bool { return (m.set|m.setAll)&unix.MOUNT_ATTR_RDONLY != 0 }

// mostValue is the length in bytes of what fsconfig(2) takes as a value.
const mostValue = 255

// needsOldCall says whether only mount(2) can make the file system.
func (m *mountOptions) needsOldCall(source string) bool {
	long := len(source) > mostValue
	for _, d := range m.data {
		key, value, _ := strings.Cut(d, "=")
		long = long || len(key) > mostValue || len(value) > mostValue
	}
	return long || m.old != 0
}

// setattr changes the attributes of the mount in a register.
func (b *builder) setattr(register string, flags uint64, a unix.MountAttr) last {
	if a.Attr_set&unix.MOUNT_ATTR__ATIME != 0 {
		a.Attr_clr |= unix.MOUNT_ATTR__ATIME
	}
	return b.do(unix.SYS_MOUNT_SETATTR, b.reg(register), text(""), symbol(flags|unix.AT_EMPTY_PATH, namesAt),
		memory(&a, showAttr), number(unix.MOUNT_ATTR_SIZE_VER0))
}

// attributesOf sets and clears what the options say of the mount in a register.
func (b *builder) attributesOf(register string, o mountOptions) {
	if o.set|o.clear != 0 {
		b.setattr(register, 0, unix.MountAttr{Attr_set: o.set, Attr_clr: o.clear})
	}
	if o.setAll|o.clrAll != 0 {
		b.setattr(register, unix.AT_RECURSIVE, unix.MountAttr{Attr_set: o.setAll, Attr_clr: o.clrAll})
	}
}

// propagate sets the propagation of the mount in a register.
func (b *builder) propagate(register string, list []propagation) {
	for _, p := range list {
		flags := uint64(0)
		if p.all {
			flags = unix.AT_RECURSIVE
		}
		b.setattr(register, flags, unix.MountAttr{Propagation: p.kind})
	}
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
	if a.Attr_set&unix.MOUNT_ATTR_IDMAP != 0 {
		parts = append(parts, "userns=users")
	}
	return fmt.Sprintf("{%s}", strings.Join(parts, ", "))
}
