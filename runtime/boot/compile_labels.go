package boot

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Security modules that a specification can ask for. The texts are runc's.
var (
	errNoAppArmor = errors.New("apparmor: config provided but apparmor not supported")
	errNoSELinux  = errors.New("selinux label is specified in config, but selinux is disabled or not supported")
)

// labels names the process's profile or label, which it has from its next execve on: that of the gangway. It is written through the host's
// /proc, before anything of the container can be in its place (CVE-2019-16884, CVE-2025-52881).
func (c *compiler) labels() {
	p := c.spec.Process
	if profile := p.ApparmorProfile; profile != "" {
		const path = "process.apparmorProfile"
		c.on("apply AppArmor profile "+profile, path)
		if !c.facts.AppArmor {
			c.fail(fmt.Errorf("%s: %w (%s: %s)", c.what, errNoAppArmor, c.document, path))
		}
		found := new(label)
		// Since Linux 5.1 the module has a directory of its own there, which matters when there are several modules.
		c.openAttribute("apparmor/exec").ignore(unix.ENOENT).then(found)
		c.openAttribute("exec")
		c.place(found)
		c.writeAttribute("exec " + profile)
	}
	if label := p.SelinuxLabel; label != "" {
		const path = "process.selinuxLabel"
		c.on("set SELinux label "+label, path)
		if !c.facts.SELinux {
			c.fail(fmt.Errorf("%s: %w (%s: %s)", c.what, errNoSELinux, c.document, path))
		}
		c.openAttribute("exec")
		c.writeAttribute(label)
		if !c.facts.NoNewKeyring { // the keyring that is made later; the execve sets this back
			c.openAttribute("keycreate")
			c.writeAttribute(label)
		}
		if file := c.spec.Linux.MountLabel; file != "" {
			// A label is entered by way of a file that it may be entered by, as those of the container's root file system. Nothing is lost
			// where a policy does not mind what the gangway is.
			c.do(unix.SYS_FSETXATTR, c.slot(slotStub, true), text("security.selinux"), text(file), number(len(file)), number(0)).tolerant()
		}
	}
	if label := c.spec.Linux.MountLabel; label != "" && !c.facts.SELinux {
		const path = "linux.mountLabel"
		c.fail(fmt.Errorf("label mounts %s: %w (%s: %s)", label, errNoSELinux, c.document, path))
	}
}

// openAttribute opens a file below /proc/self/attr, proc_pid_attr(5).
func (c *compiler) openAttribute(name string) last {
	return c.inProc("/proc/self/attr/"+name, unix.O_WRONLY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS).into("attribute")
}

// writeAttribute writes and closes it.
func (c *compiler) writeAttribute(content string) {
	c.do(unix.SYS_WRITE, c.reg("attribute"), text(content), number(len(content)))
	c.close("attribute")
}

// mountContext is the mount option that labels a file system's files, empty for none: /proc and /sys have labels of their own.
func (c *compiler) mountContext(kind string) string {
	if kind == "proc" || kind == "sysfs" || kind == "cgroup" || kind == "cgroup2" || kind == "mqueue" {
		return ""
	}
	return c.spec.Linux.MountLabel
}
