package boot

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

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
	place := c.facts.Root
	if o := c.facts.Overlay; o != nil {
		place = o.Upper
	}
	if !c.hostMounts {
		c.hostPropagation(place)
	}
	if o := c.facts.Overlay; o != nil {
		c.overlay(o)
		return
	}
	c.on("open root "+place, "root.path")
	c.do(unix.SYS_OPEN_TREE, cwd(), text(place),
		symbol(unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.OPEN_TREE_CLOEXEC, namesOpenTree)).into("root").op().Store = &c.rootRights().fd[0]
	c.on("mount root "+place, "root.path")
	c.setattr("root", 0, unix.MountAttr{Propagation: unix.MS_PRIVATE})
	c.do(unix.SYS_MOVE_MOUNT, c.reg("root"), text(""), cwd(), text(place),
		symbol(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS, namesMove))
}

// keepFromHost makes the mount that a path is on private, so that what is mounted there is not on the host too. Only the path of a mount
// itself is taken by the kernel: all others are no valid argument.
func (c *compiler) keepFromHost(place string) {
	c.on("keep root "+place+" from the host", "linux.rootfsPropagation")
	found := new(label)
	for ; place != "/"; place = path.Dir(place) {
		c.do(unix.SYS_MOUNT, null(), text(place), null(), symbol(unix.MS_PRIVATE, namesMount), null()).ignore(unix.EINVAL).then(found)
	}
	c.do(unix.SYS_MOUNT, null(), text("/"), null(), symbol(unix.MS_PRIVATE, namesMount), null())
	c.place(found)
}

// hostPropagation keeps the container's mounts from the host.
func (c *compiler) hostPropagation(place string) {
	c.on("set propagation of /", "linux.rootfsPropagation")
	kind := uint64(unix.MS_SLAVE)
	switch strings.TrimPrefix(c.spec.Linux.RootfsPropagation, "r") {
	case "shared":
		kind = unix.MS_SHARED // for mounts of the host that are to be shared with it
	case "private", "unbindable": // that comes last: what is unbindable can't be cloned
		kind = unix.MS_PRIVATE
	}
	if kind == unix.MS_SHARED && c.facts.NoPivot {
		kind = unix.MS_SLAVE // what is moved onto / and detached below it is not to be so on the host too
	}
	c.do(unix.SYS_MOUNT, null(), text("/"), null(), symbol(unix.MS_REC|kind, namesMount), null())
	if kind == unix.MS_SHARED {
		c.keepFromHost(place)
	}
}

// overlay mounts the layers on top of the upper directory: it is a directory that is always there, and in this mount namespace
// nothing else looks at it. The host never sees the mount. It is a classic mount(2) because fsconfig takes at most 255 bytes.
func (c *compiler) overlay(o *Overlay) {
	if c.hostMounts {
		c.fail(fmt.Errorf("compile %s: an overlay needs a mount namespace (%[1]s: linux.namespaces)", c.facts.Document))
	}
	c.on("mount overlay on /", "root")
	escape := strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`)
	lower := make([]string, len(o.Lower))
	for i, l := range o.Lower {
		lower[i] = escape.Replace(l)
	}
	data := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + escape.Replace(o.Upper) + ",workdir=" + escape.Replace(o.Work)
	c.do(unix.SYS_MOUNT, text("overlay"), text(o.Upper), text("overlay"), number(0), text(data))
	c.do(unix.SYS_OPENAT, cwd(), text(o.Upper), symbol(flagsDir, namesOpen)).into("root").op().Store = &c.rootRights().fd[0]
}

// mounts carries out the list of mounts.
func (c *compiler) mounts() {
	for i, m := range c.spec.Mounts {
		c.on(fmt.Sprintf("mount %s on %s", mountName(m), m.Destination), index("mounts", i))
		c.mount = i
		o := parseOptions(m.Options)
		o.bind = o.bind || m.Type == "bind"
		if !c.checkPlace(i, m.Type, o.bind, o.remount) {
			return
		}
		switch {
		case o.remount:
			c.remount(m, o)
		case o.bind:
			c.bind(m, o)
		case m.Type == "cgroup":
			c.cgroups(m, o)
		case o.needsOldCall(m.Source):
			c.old(m, o)
		default:
			c.mountNew(m, o)
		}
	}
}

// mountNew makes a file system and mounts it.
func (c *compiler) mountNew(m specs.Mount, o mountOptions) {
	kind := targetDir
	if m.Type == "proc" || m.Type == "sysfs" {
		kind = targetReal
	}
	if m.Type == "tmpfs" && !slices.ContainsFunc(o.data, func(d string) bool { return strings.HasPrefix(d, "mode=") }) {
		o.data = append(slices.Clone(o.data), "mode")
		c.modeOf(m.Destination)
	} else {
		c.target(m.Destination, kind, nil)
	}
	if m.Type == "proc" {
		c.keepEmpty()
	}
	c.anchor(m.Destination)
	if m.Type == "tmpfs" && o.readonly() {
		c.mnt = index("mount", c.mount)
	}
	c.fresh(m.Type, m.Source, o)
	if o.idmap || len(m.UIDMappings) > 0 {
		c.idmap(&m, o)
	}
	if o.copyUp && m.Type == "tmpfs" {
		c.copyUp()
	}
	c.attach(o)
}

// modeOf opens the mountpoint of a tmpfs whose mode nobody says: it becomes the one of the directory that is there, as with other runtimes.
func (c *compiler) modeOf(destination string) {
	made := new(label)
	st, digits := new(unix.Stat_t), &[5]byte{'1', '7', '7', '7'}
	c.target(destination, targetDir, made)
	c.do(unix.SYS_FSTAT, c.reg("target"), memory(st, showStat))
	c.do(opOctal, memory(&st.Mode, showMode), memory(digits, showDigits))
	c.place(made)
	c.digits = digits
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
	if label := c.mountContext(kind); label != "" {
		c.config("context", label)
	}
	if o.readonly() && !slices.Contains(shareable, kind) {
		c.flag("ro")
	}
	c.parameters(o)
	c.do(unix.SYS_FSCONFIG, c.reg("context"), symbol(unix.FSCONFIG_CMD_CREATE, namesFsconfig), null(), null(), number(0)).
		hint(unix.EPERM, c.whyRefused(kind))
	set := o.set | o.setAll
	if kind == "tmpfs" {
		set &^= unix.MOUNT_ATTR_RDONLY // until everything below is mounted
	}
	c.do(unix.SYS_FSMOUNT, c.reg("context"), symbol(unix.FSMOUNT_CLOEXEC, namesFsmount), symbol(set, namesAttr)).into(c.mnt).
		hint(unix.EPERM, c.whyRefused(kind))
	c.close("context")
}

// shareable are the file systems without a device: of these only the mount is made read-only. A device is not to be written to at all.
var shareable = []string{"tmpfs", "proc", "sysfs", "mqueue", "devpts", "cgroup2", "securityfs", "debugfs", "tracefs", "configfs", "bpf", "fusectl"}

// whyRefused says why a user namespace may not mount a file system.
func (c *compiler) whyRefused(kind string) string {
	if !c.users {
		return ""
	}
	return map[string]string{
		"proc":   "a new proc in a user namespace needs a new pid namespace, and nothing mounted over the host's",
		"sysfs":  "a new sysfs in a user namespace needs a new network namespace (a bind mount of /sys does not)",
		"mqueue": "a new mqueue in a user namespace needs a new ipc namespace (a bind mount of /dev/mqueue does not)",
	}[kind]
}

// parameters tells the file system that is being made, or made anew, its flags and options.
func (c *compiler) parameters(o mountOptions) {
	for _, f := range o.flags {
		c.flag(f)
	}
	for _, d := range o.data {
		key, value, assigned := strings.Cut(d, "=")
		switch {
		case assigned:
			c.config(key, value)
		case key == "mode" && c.digits != nil:
			c.do(unix.SYS_FSCONFIG, c.reg("context"), symbol(unix.FSCONFIG_SET_STRING, namesFsconfig), text(key),
				memory(c.digits, showDigits), number(0))
			c.digits = nil
		default:
			c.flag(key)
		}
	}
}

// config sets a string option of the file system that is being made.
func (c *compiler) config(key, value string) {
	c.do(unix.SYS_FSCONFIG, c.reg("context"), symbol(unix.FSCONFIG_SET_STRING, namesFsconfig), text(key), text(value), number(0))
}

// flag sets an option without a value.
func (c *compiler) flag(key string) {
	c.do(unix.SYS_FSCONFIG, c.reg("context"), symbol(unix.FSCONFIG_SET_FLAG, namesFsconfig), text(key), null(), number(0))
}

// bind clones a part of the host's tree.
func (c *compiler) bind(m specs.Mount, o mountOptions) {
	source := m.Source
	if !filepath.IsAbs(source) {
		source = filepath.Join(c.facts.Bundle, source)
	}
	kind := targetDir
	if c.facts.Files[m.Source] {
		kind = targetFile
	}
	c.anchor(m.Destination)
	c.source(&m, source, o)
	if inside(m.Destination) == "proc" {
		c.onlyProc()
	}
	c.bindAttributes(o)
	c.target(m.Destination, kind, nil)
	c.attach(o)
}

// clone takes a host path as a detached mount into register mount.
func (c *compiler) clone(source string, recursive bool) last {
	flags := uint64(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return c.do(unix.SYS_OPEN_TREE, cwd(), text(source), symbol(flags, namesOpenTree)).into(c.mnt)
}

// attach puts the mount at hand on the mountpoint in register target.
func (c *compiler) attach(o mountOptions) {
	c.move().hint(unix.EINVAL, "a directory does not go on a file, nor a file on a directory")
	c.propagate(c.mnt, o.propagation)
	c.close("target")
	switch {
	case c.mnt == plainMount:
		c.close(c.mnt)
	case !strings.HasPrefix(c.mnt, anchored):
		c.late = append(c.late, lateMount{c.mnt, c.mount})
	}
	c.mnt = plainMount
}

// anchored begins the register of the mount on /proc or /sys.
const anchored = "mount on /"

// anchor has the next mount stay open if it goes on /proc or /sys. What is masked and made read-only in them is found from the mount: its
// name in an image that others can change may be another file's by then (CVE-2023-27561).
func (c *compiler) anchor(destination string) {
	if clean := inside(destination); clean == "proc" || clean == "sys" {
		c.mnt = anchored + clean
		if !slices.Contains(c.anchors, clean) {
			c.anchors = append(c.anchors, clean)
		}
	}
}

// find opens a path of the container as register target, from the mount that is anchored above it or from the root.
func (c *compiler) find(p string) last {
	clean := inside(p)
	for _, a := range c.anchors {
		rest, below := strings.CutPrefix(clean, a)
		if below && (rest == "" || rest[0] == '/') {
			how := &unix.OpenHow{Flags: flagsPath, Resolve: insideOnly}
			return c.do(unix.SYS_OPENAT2, c.reg(anchored+a), text(inside(rest)), memory(how, showHow), number(unix.SizeofOpenHow)).into("target")
		}
	}
	return c.inRoot("target", clean, flagsPath)
}

// plainMount is the register of a mount that is complete when it is attached.
const plainMount = "mount"

// lateMount is a mount that becomes read-only when everything is mounted, in the register it is kept in.
type lateMount struct {
	register string
	mount    int
}

// move puts the mount at hand on the one in register target.
func (c *compiler) move() last {
	return c.do(unix.SYS_MOVE_MOUNT, c.reg(c.mnt), text(""), c.reg("target"), text(""),
		symbol(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH, namesMove))
}

// cgroups shows the container its cgroup: with v1 one directory for each hierarchy on a small tmpfs, with v2 alone the directory. These are
// bind mounts, which look the same with a cgroup namespace and without one.
func (c *compiler) cgroups(m specs.Mount, o mountOptions) {
	own := mountOptions{set: o.set | o.setAll, clear: o.clear | o.clrAll}
	c.target(m.Destination, targetDir, nil)
	if len(c.facts.Cgroups) == 1 && c.facts.Cgroups[0].Name == "" {
		c.clone(c.facts.Cgroups[0].Dir, false)
		// Private, as a new mount in the cgroup namespace would be: CRIU can make no other again.
		c.setattr(c.mnt, 0, unix.MountAttr{Attr_set: own.set, Attr_clr: own.clear, Propagation: unix.MS_PRIVATE})
		c.attach(o)
		return
	}
	c.mnt = index("cgroups", c.mount)
	c.fresh("tmpfs", "tmpfs", mountOptions{set: own.set, data: []string{"mode=755"}})
	c.move()
	c.propagate(c.mnt, o.propagation)
	c.close("target")
	top := c.mnt
	c.mnt = plainMount
	for _, g := range c.facts.Cgroups {
		c.what = "mount cgroup " + g.Name + " on " + m.Destination
		c.clone(g.Dir, false)
		c.attributesOf("mount", own)
		c.do(unix.SYS_MKDIRAT, c.reg(top), text(g.Name), symbol(0o755, namesMode)).ignore(unix.EEXIST)
		c.straightFrom(top, "target", g.Name, flagsDir)
		c.attach(o)
		for _, l := range g.Links {
			c.do(unix.SYS_SYMLINKAT, text(g.Name), c.reg(top), text(l)).ignore(unix.EEXIST)
		}
	}
	if own.readonly() {
		c.late = append(c.late, lateMount{top, c.mount})
	} else {
		c.close(top)
	}
}
