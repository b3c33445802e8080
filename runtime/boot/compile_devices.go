package boot

import (
	"fmt"
	"path"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultDevices are those that the OCI specification demands in every container.
var defaultDevices = []struct {
	name         string
	major, minor uint32
}{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
}

// deviceLinks are the symbolic links that it demands.
var deviceLinks = []struct{ target, name string }{
	{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
}

// devices makes the device nodes and links, unless /dev is the host's by a bind mount.
func (c *compiler) devices() {
	for _, m := range c.spec.Mounts {
		if o := parseOptions(m.Options); inside(m.Destination) == "dev" && (o.bind || m.Type == "bind") {
			return
		}
	}
	wanted := map[string]bool{}
	for _, d := range c.spec.Linux.Devices {
		wanted[inside(d.Path)] = true
	}
	c.on("make devices in /dev", "")
	c.makeDirs("dev")
	for _, d := range defaultDevices {
		if !wanted["dev/"+d.name] {
			c.on("make device /dev/"+d.name, "")
			c.node(d.name, "/dev/"+d.name, unix.S_IFCHR|0o666, unix.Mkdev(d.major, d.minor))
		}
	}
	for _, l := range deviceLinks {
		c.on("make link /dev/"+l.name, "")
		c.do(unix.SYS_SYMLINKAT, text(l.target), c.reg("dir"), text(l.name)).ignore(unix.EEXIST)
	}
	c.on("make link /dev/ptmx", "")
	c.do(unix.SYS_UNLINKAT, c.reg("dir"), text("ptmx"), number(0)).ignore(unix.ENOENT)
	c.do(unix.SYS_SYMLINKAT, text("pts/ptmx"), c.reg("dir"), text("ptmx"))
	c.close("dir")
	for i, d := range c.spec.Linux.Devices {
		if path.Clean(d.Path) == "/dev/ptmx" { // the link to the container's own; engines list the host's for privileged containers
			continue
		}
		c.on("make device "+d.Path, index("linux.devices", i))
		c.device(d)
	}
}

// node makes a device node in register dir. In a user namespace that is not allowed: there the host's is shown instead.
func (c *compiler) node(name, host string, mode uint32, dev uint64) {
	if !c.users {
		c.do(unix.SYS_MKNODAT, c.reg("dir"), text(name), symbol(mode, namesMode), number(dev)).ignore(unix.EEXIST)
		return
	}
	c.do(unix.SYS_MKNODAT, c.reg("dir"), text(name), symbol(unix.S_IFREG|0o644, namesMode), number(0)).ignore(unix.EEXIST)
	c.clone(host, false)
	c.do(unix.SYS_OPENAT, c.reg("dir"), text(name), symbol(flagsPath|unix.O_NOFOLLOW, namesOpen)).into("target")
	c.move()
	c.close("target")
	c.close("mount")
}

// makeNode makes a device node in register dir. What is there already has to be the same device (config-linux.md, Devices).
func (c *compiler) makeNode(name string, mode uint32, dev uint64) {
	made := new(label)
	c.do(unix.SYS_MKNODAT, c.reg("dir"), text(name), symbol(mode, namesMode), number(dev)).ignore(unix.EEXIST).then(made)
	st, kind, all := new(unix.Stat_t), mode&unix.S_IFMT, uint32(unix.S_IFMT)
	c.do(unix.SYS_OPENAT, c.reg("dir"), text(name), symbol(flagsPath|unix.O_NOFOLLOW, namesOpen)).into("target")
	c.do(unix.SYS_FSTAT, c.reg("target"), memory(st, showStat))
	const hint = "something else is there"
	expect(&c.builder, &st.Mode, &kind, &all, showFileType).hint(unix.EXDEV, hint)
	if kind != unix.S_IFIFO {
		expect(&c.builder, &st.Rdev, &dev, nil, showDevice).hint(unix.EXDEV, hint)
	}
	c.close("target")
	c.place(made)
}

func showFileType(p unsafe.Pointer) string { return fmt.Sprintf("%#o", *(*uint32)(p)) }

// device makes a node that the specification lists.
func (c *compiler) device(d specs.LinuxDevice) {
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(*d.FileMode) & 0o7777
	}
	switch d.Type {
	case "c", "u":
		mode |= unix.S_IFCHR
	case "b":
		mode |= unix.S_IFBLK
	case "p":
		mode |= unix.S_IFIFO
	default:
		c.fail(fmt.Errorf("compile %s: type %q of device %s is unknown (%[1]s: linux.devices)", c.facts.Document, d.Type, d.Path))
	}
	dir, name := path.Split(inside(d.Path))
	c.makeDirs(inside(dir))
	if c.users {
		c.node(name, d.Path, mode, 0)
	} else {
		c.makeNode(name, mode, unix.Mkdev(uint32(d.Major), uint32(d.Minor)))
	}
	if !c.users && (d.UID != nil || d.GID != nil) {
		c.do(unix.SYS_FCHOWNAT, c.reg("dir"), text(name), number(id(d.UID)), number(id(d.GID)),
			symbol(unix.AT_SYMLINK_NOFOLLOW, namesAt))
	}
	c.close("dir")
}

// id is an optional user or group, 0 by default.
func id(v *uint32) uint32 {
	if v == nil {
		return 0
	}
	return *v
}
