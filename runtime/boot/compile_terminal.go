package boot

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// handOver is the message that carries a descriptor to the parent.
type handOver struct {
	header  unix.Msghdr
	vector  unix.Iovec
	report  report
	control struct {
		header unix.Cmsghdr
		fd     int32
		_      int32
	}
}

// console makes the process's terminal when it wants one: a pseudo terminal of the container's own devpts, found below the directory in
// a register. The master goes to the parent, the other end becomes the standard streams, the controlling terminal and, when the
// container is being made, /dev/console.
func (c *compiler) console(root string) {
	p := c.spec.Process
	if !p.Terminal {
		return
	}
	c.on("open terminal", "process.terminal")
	how := &unix.OpenHow{Flags: unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	c.do(unix.SYS_OPENAT2, c.reg(root), text("dev/pts/ptmx"), memory(how, showHow), number(unix.SizeofOpenHow)).into("master")
	c.do(unix.SYS_IOCTL, c.reg("master"), symbol(unix.TIOCSPTLCK, namesIoctl), memory(new(int32), showZero))
	c.do(unix.SYS_IOCTL, c.reg("master"), symbol(unix.TIOCGPTPEER, namesIoctl),
		symbol(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, namesOpen)).into("terminal")
	if s := p.ConsoleSize; s != nil && (s.Height != 0 || s.Width != 0) {
		c.on("set size of terminal", "process.consoleSize")
		size := &unix.Winsize{Row: uint16(min(s.Height, 65535)), Col: uint16(min(s.Width, 65535))}
		c.do(unix.SYS_IOCTL, c.reg("terminal"), symbol(unix.TIOCSWINSZ, namesIoctl), memory(size, showSize))
	}
	c.on("give terminal to user", "process.user")
	if p.User.UID != 0 {
		c.do(unix.SYS_FCHOWN, c.reg("terminal"), number(p.User.UID), number(-1)).ignore(unix.EINVAL, unix.EPERM)
	}
	c.handOver()
	c.on("take controlling terminal", "process.terminal")
	c.do(unix.SYS_IOCTL, c.reg("terminal"), symbol(unix.TIOCSCTTY, namesIoctl), number(0))
	if root == "root" {
		c.devConsole()
	}
	for i := range 3 {
		c.do(unix.SYS_DUP3, c.reg("terminal"), number(i), number(0))
	}
	c.close("terminal")
}

// handOver sends the master to the parent and closes it here: a container that held it could read its own output.
func (c *compiler) handOver() {
	c.on(MarkConsole, "process.terminal")
	h := newHandOver(len(c.p.Ops) + 1)
	keep := c.do(unix.SYS_FCNTL, c.reg("master"), symbol(unix.F_DUPFD_CLOEXEC, namesFcntl), number(3)).into("sent")
	keep.op().Store = &h.control.fd
	c.do(unix.SYS_SENDMSG, c.slot(slotSync, true), memory(h, showHandOver), symbol(unix.MSG_NOSIGNAL, namesMessage))
	c.close("sent")
	c.close("master")
}

// devConsole shows the terminal at /dev/console. The terminal is known by its descriptor and the place is no symbolic link: neither can be
// exchanged for something else meanwhile (CVE-2025-52565).
func (c *compiler) devConsole() {
	c.on("mount terminal on /dev/console", "process.terminal")
	c.do(unix.SYS_OPEN_TREE, c.reg("terminal"), text(""),
		symbol(unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLOEXEC, namesOpenTree)).into("mount")
	c.makeDirs("dev")
	c.do(unix.SYS_MKNODAT, c.reg("dir"), text("console"), symbol(unix.S_IFREG|0o644, namesMode), number(0)).ignore(unix.EEXIST, unix.EROFS)
	c.straightFrom("dir", "target", "console", flagsPath).hint(unix.ELOOP, "a symbolic link in the image is not followed here")
	c.close("dir")
	c.move()
	c.close("target")
	c.close("mount")
}

func showZero(unsafe.Pointer) string { return "[0]" }

func showHandOver(unsafe.Pointer) string { return "{report, SCM_RIGHTS [sent]}" }

func showSize(p unsafe.Pointer) string {
	s := (*unix.Winsize)(p)
	return fmt.Sprintf("{%d rows, %d columns}", s.Row, s.Col)
}

var namesMessage = &names{list: []name{{unix.MSG_NOSIGNAL, "MSG_NOSIGNAL"}, {unix.MSG_CMSG_CLOEXEC, "MSG_CMSG_CLOEXEC"}}}
