package boot

import (
	"fmt"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// IDMap is a user namespace whose maps are those of an id-mapped mount. The program wants a descriptor of it in a slot.
type IDMap struct {
	Slot       string
	UIDs, GIDs []specs.LinuxIDMapping
	// Mount is the index of the first mount that wants it.
	Mount int
}

// IDMaps returns the user namespaces that the program's id-mapped mounts need.
func (p *Program) IDMaps() []IDMap { return p.idmaps }

// source takes what a bind mount shows as a detached mount into register mount, mapped if that is asked for.
//
// In a user namespace the child may not map a mount of the host's, and perhaps may not even look at its source. Then the parent opens it, in
// the child's mount namespace.
func (c *compiler) source(m *specs.Mount, path string, o mountOptions) {
	mapped := o.idmap || len(m.UIDMappings) > 0
	switch {
	case !c.users:
		c.clone(path, o.recursive)
		if mapped {
			c.idmap(m, o)
		}
	case mapped:
		c.askFor(MarkSource, c.mnt)
	default:
		hidden, done := new(label), new(label)
		c.clone(path, o.recursive).ignore(unix.EACCES).otherwise(hidden).then(done)
		c.place(hidden)
		c.askFor(MarkSource, c.mnt)
		c.place(done)
	}
}

// idmap maps the ids of the mount in register mount by the user namespace in a slot.
func (c *compiler) idmap(m *specs.Mount, o mountOptions) {
	name := idmapSlot(m)
	known := false
	for _, have := range c.p.idmaps {
		known = known || have.Slot == name
	}
	if !known {
		c.p.idmaps = append(c.p.idmaps, IDMap{Slot: name, UIDs: m.UIDMappings, GIDs: m.GIDMappings, Mount: c.mount})
	}
	flags := uint64(unix.AT_EMPTY_PATH)
	if o.idmapAll {
		flags |= unix.AT_RECURSIVE
	}
	a := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP}
	c.do(unix.SYS_FCNTL, c.slot(name, false), symbol(unix.F_DUPFD_CLOEXEC, namesFcntl), number(3)).into("users").op().Store = (*int32)(unsafe.Pointer(&a.Userns_fd)) // the lower half: all machines that zap builds for are little endian
	c.do(unix.SYS_MOUNT_SETATTR, c.reg(c.mnt), text(""), symbol(flags, namesAt), memory(a, showAttr), number(unix.MOUNT_ATTR_SIZE_VER0)).
		hint(unix.EINVAL, "the file system may not know id-mapped mounts")
	c.close("users")
}

// idmapSlot is the slot of a mount's user namespace. Mounts with the same maps share one.
func idmapSlot(m *specs.Mount) string {
	var out strings.Builder
	out.WriteString("idmap")
	for _, list := range [][]specs.LinuxIDMapping{m.UIDMappings, m.GIDMappings} {
		separator := " "
		for _, e := range list {
			fmt.Fprintf(&out, "%s%d:%d:%d", separator, e.ContainerID, e.HostID, e.Size)
			separator = ","
		}
	}
	return out.String()
}

// copyUp has the parent fill the tmpfs in register mount with what is in register target.
func (c *compiler) copyUp() {
	r := new(rights)
	for i, register := range []string{c.mnt, "target"} {
		c.do(unix.SYS_FCNTL, c.reg(register), symbol(unix.F_DUPFD_CLOEXEC, namesFcntl), number(3)).
			into([]string{"sent", "sent too"}[i]).op().Store = &r.fd[i]
	}
	c.send(MarkCopyUp, r, 2)
	c.close("sent")
	c.close("sent too")
	c.do(opAwait)
}

// onlyProc makes sure that the mount in register mount, which goes on /proc, is one.
func (c *compiler) onlyProc() {
	st, magic := new(unix.Statfs_t), int64(unix.PROC_SUPER_MAGIC)
	c.do(unix.SYS_FSTATFS, c.reg(c.mnt), memory(st, showStat))
	expect(&c.builder, &st.Type, &magic, nil, showMagic).hint(unix.EXDEV, "cannot be mounted because it is not of type proc")
}

// old makes a file system with mount(2): fsconfig(2) takes no value of more than 255 bytes, and does not know all flags.
func (c *compiler) old(m specs.Mount, o mountOptions) {
	kind := targetDir
	if m.Type == "proc" || m.Type == "sysfs" {
		kind = targetReal
	}
	c.target(m.Destination, kind, nil)
	flags := o.old
	for _, f := range o.flags {
		flags |= map[string]uint64{
			"sync": unix.MS_SYNCHRONOUS, "dirsync": unix.MS_DIRSYNC, "lazytime": unix.MS_LAZYTIME, "mand": unix.MS_MANDLOCK,
		}[f]
	}
	source := m.Source
	if source == "" {
		source = "none"
	}
	c.do(unix.SYS_FCHDIR, c.reg("target"))
	c.do(unix.SYS_MOUNT, text(source), text("."), text(m.Type), symbol(flags, namesMount), text(strings.Join(o.data, ",")))
	c.do(unix.SYS_CHDIR, text("/"))
	// The new mount is the one above register target: a path that ends there leads on to it.
	c.target(m.Destination, kind, nil)
	c.attributesOf("target", o)
	if o.idmap || len(m.UIDMappings) > 0 {
		c.fail(fmt.Errorf("mount %s on %s: an id-mapped mount has no options of more than %d bytes (%s: %s)", mountName(m), m.Destination,
			mostValue, c.facts.Document, index("mounts", c.mount)))
	}
	c.propagate("target", o.propagation)
	c.close("target")
}

// remount changes a mount that is there. The file system itself is only told the options that are its own: read-only becomes the mount.
func (c *compiler) remount(m specs.Mount, o mountOptions) {
	c.inRoot("target", inside(m.Destination), flagsPath)
	if !o.bind && len(o.data)+len(o.flags) > 0 {
		c.do(unix.SYS_FSPICK, c.reg("target"), text(""), symbol(unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH, namesFspick)).into("context")
		c.parameters(o)
		c.do(unix.SYS_FSCONFIG, c.reg("context"), symbol(unix.FSCONFIG_CMD_RECONFIGURE, namesFsconfig), null(), null(), number(0))
		c.close("context")
	}
	c.attributesOf("target", o)
	c.propagate("target", o.propagation)
	c.close("target")
}

// expect fails with EXDEV unless a value is the one that is wanted, in the bits of a mask if there is one.
func expect[T any](b *builder, have, want, mask *T, show func(unsafe.Pointer) string) last {
	masked := number(0)
	if mask != nil {
		masked = memory(mask, show)
	}
	return b.do(opExpect, memory(have, func(unsafe.Pointer) string { return "it" }), memory(want, show), number(unsafe.Sizeof(*want)), masked)
}

func showStat(unsafe.Pointer) string { return "&stat" }

func showMode(unsafe.Pointer) string { return "its mode" }

func showDigits(p unsafe.Pointer) string { return "digits" }

func showDevice(p unsafe.Pointer) string {
	n := *(*uint64)(p)
	return fmt.Sprintf("device %d:%d", unix.Major(n), unix.Minor(n))
}

func showMagic(p unsafe.Pointer) string { return fmt.Sprintf("file system %#x", *(*int64)(p)) }
