package pages

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// CRIU's page server protocol (criu/page-xfer.c). Integers are in the byte order of the machine, which is little endian wherever CRIU
// runs but s390x; zap refuses to move a pod between byte orders anyway, and here it speaks little endian only.
const (
	criuHeader = 32 // u32 command, u32 padding, u64 pages, u64 address, u64 destination

	criuAdd        = 1 // pages follow
	criuHole       = 2 // pages that the parent image has
	criuOpen       = 3 // begin an image
	criuOpen2      = 4 // begin an image and answer with one byte: is there a parent
	criuParent     = 5 // is there a parent
	criuAddFlags   = 6 // pages follow if the flags say that they are present
	criuGet        = 7 // lazy migration: send pages
	criuClose      = 0x1023
	criuForceClose = 0x1024

	criuCommandBits = 16 // flags are above

	flagParent  = 1 << 0 // PE_PARENT: the parent image has them
	flagLazy    = 1 << 1 // PE_LAZY
	flagPresent = 1 << 2 // PE_PRESENT: they are in the pages image

	kindProcess = 1 // destination: id << 8 | kind; id is a pid
	kindShared  = 2 // id is that of a shared memory object
)

// ofProcess is the destination of a process's pages.
func ofProcess(image uint32) uint64 { return uint64(image)<<8 | kindProcess }

// pageSize is the unit of CRIU's counts.
var pageSize = uint64(unix.Getpagesize())

// errProtocol is met by a stream that CRIU's protocol does not allow.
var errProtocol = errors.New("page protocol violated")

// command is one header of the page server protocol.
type command struct {
	op          uint32
	flags       uint32
	pages       uint64
	address     uint64
	destination uint64
}

// parseCommand decodes the 32 bytes at b. It checks what can be checked without knowing what came before.
func parseCommand(b []byte) (command, error) {
	word := binary.LittleEndian.Uint32(b)
	c := command{
		op: word & (1<<criuCommandBits - 1), flags: word >> criuCommandBits, pages: binary.LittleEndian.Uint64(b[8:]),
		address: binary.LittleEndian.Uint64(b[16:]), destination: binary.LittleEndian.Uint64(b[24:]),
	}
	switch c.op {
	case criuAdd:
		c.flags = flagPresent
	case criuHole:
		c.flags = flagParent
	case criuAddFlags:
	case criuOpen, criuOpen2:
		if k := c.destination & 0xff; k != kindProcess && k != kindShared {
			return c, fmt.Errorf("%w: image of kind %d", errProtocol, k)
		}
		return c, nil
	case criuClose, criuForceClose:
		return c, nil
	default:
		return c, fmt.Errorf("%w: command %#x", errProtocol, word)
	}
	return c, c.checkAdd()
}

// checkAdd checks a command that describes pages.
func (c *command) checkAdd() error {
	const limit = 1 << 56 // bytes; no address space is larger
	if c.pages == 0 || c.pages > limit/pageSize || c.address > 1<<63 || c.address%pageSize != 0 {
		return fmt.Errorf("%w: %d pages at %#x", errProtocol, c.pages, c.address)
	}
	if c.flags&^(flagParent|flagLazy|flagPresent) != 0 {
		return fmt.Errorf("%w: page flags %#x", errProtocol, c.flags)
	}
	return nil
}

// clean says whether the command is about pages that CRIU does not send, for nobody has written to them.
func (c *command) clean() bool {
	return (c.op == criuHole || c.op == criuAddFlags) && c.flags&flagParent != 0
}

// present makes the command at b one about as many pages that are sent.
func present(b []byte) { binary.LittleEndian.PutUint32(b, criuAddFlags|flagPresent<<criuCommandBits) }

// data is how many bytes of pages follow the command.
func (c *command) data() uint64 {
	switch c.op {
	case criuAdd, criuAddFlags, criuHole:
		if c.flags&flagPresent != 0 && c.flags&flagParent == 0 {
			return c.pages * pageSize
		}
	}
	return 0
}
