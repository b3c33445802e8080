package boot

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Marks of what the child leaves to its parent, which has more rights or can do what needs a loop. Event.Place is the index of the mount.
const (
	MarkTarget = "find mountpoint" // comes with the root file system; Child.Give the opened mountpoint
	MarkSource = "open source"     // comes with nothing; Child.Give the detached mount
	MarkCopyUp = "copy up"         // comes with the new mount and the directory it is going to be mounted on; Child.Continue when filled
)

// letter is a message with descriptors, to or from the parent.
type letter struct {
	header unix.Msghdr
	vector unix.Iovec
	report report
}

// rights are the descriptors that come with a letter.
type rights struct {
	header unix.Cmsghdr
	fd     [2]int32
}

// newLetter is a letter with room for n descriptors.
func newLetter(op int, r *rights, n int) *letter {
	l := &letter{report: report{op: uint32(op)}}
	l.vector.Base = (*byte)(unsafe.Pointer(&l.report))
	l.vector.SetLen(int(unsafe.Sizeof(l.report)))
	l.header.Iov, l.header.Iovlen = &l.vector, 1
	if n > 0 {
		r.header.Level, r.header.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
		r.header.SetLen(unix.CmsgLen(4 * n))
		l.header.Control = (*byte)(unsafe.Pointer(r))
		l.header.SetControllen(unix.CmsgSpace(4 * n))
	}
	return l
}

// send reports a mark together with the descriptors that r holds by then.
func (c *compiler) send(mark string, r *rights, n int) {
	l := newLetter(len(c.p.Ops), r, n)
	op := c.do(unix.SYS_SENDMSG, c.slot(slotSync, true), memory(l, showLetter), symbol(unix.MSG_NOSIGNAL, namesMessage)).op()
	op.Mark, op.Place = mark, c.mount
}

// askFor has the parent do what a mark says and takes the descriptor it answers with into a register.
func (c *compiler) askFor(mark, register string) last {
	if c.answer == nil {
		c.answer = &rights{fd: [2]int32{-1, -1}}
	}
	with := 0
	if mark == MarkTarget {
		with = 1
	}
	c.send(mark, c.rootRights(), with)
	l := newLetter(0, c.answer, 1)
	c.do(unix.SYS_RECVMSG, c.slot(slotSync, true), memory(l, showLetter), symbol(unix.MSG_CMSG_CLOEXEC, namesMessage))
	return c.do(opLoad, memory(&c.answer.fd[0], showAnswer)).into(register)
}

// rootRights are those that register root is sent by: they are filled where the register is.
func (c *compiler) rootRights() *rights {
	if c.toRoot == nil {
		c.toRoot = new(rights)
	}
	return c.toRoot
}

func showLetter(unsafe.Pointer) string { return "{report, SCM_RIGHTS}" }

func showAnswer(unsafe.Pointer) string { return "SCM_RIGHTS" }
