package pages

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// tracked is a process whose writes the kernel has tracked since its memory was last looked at (soft-dirty bits). What CRIU's dump finds clean
// is at the target then, as it was sent.
type tracked struct {
	pid   int
	pidfd int
	mem   *os.File // its memory, once something of it is wanted
	pages *os.File // its page map, the same

	first   uint64 // the address of the first of entries
	entries []byte // of the page map
}

// track begins to watch a process; nil if it has ended.
func track(pid int) *tracked {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	return &tracked{pid: pid, pidfd: fd}
}

// same says whether the process's id is still its own. It stays so as long as the pod is frozen.
func (t *tracked) same() bool {
	return t != nil && unix.PidfdSendSignal(t.pidfd, 0, nil, 0) == nil
}

// read reads a page of the process, whatever its protection.
func (t *tracked) read(address uint64, page []byte) (err error) {
	if t.mem == nil {
		if t.mem, err = os.Open(fmt.Sprintf("/proc/%d/mem", t.pid)); err != nil {
			return err
		}
	}
	if _, err := t.mem.ReadAt(page, int64(address)); err != nil {
		return fmt.Errorf("read page %#x of process %d: %w", address, t.pid, err)
	}
	return nil
}

// entry is the page map's for the page at an address. With it those of the pages behind it are read, as many as there are left to ask for.
func (t *tracked) entry(address, left uint64) (uint64, error) {
	at := (address - t.first) / pageSize * pagemapEntry
	if address < t.first || at+pagemapEntry > uint64(len(t.entries)) {
		if err := t.look(address, min(left, pagemapChunk)); err != nil {
			return 0, fmt.Errorf("read page map of process %d at %#x: %w", t.pid, address, err)
		}
		at = 0
	}
	return binary.LittleEndian.Uint64(t.entries[at:]), nil
}

// look reads n entries of the page map.
func (t *tracked) look(address, n uint64) (err error) {
	if t.pages == nil {
		if t.pages, err = os.Open(fmt.Sprintf("/proc/%d/pagemap", t.pid)); err != nil {
			return err
		}
	}
	if t.entries == nil {
		t.entries = make([]byte, pagemapChunk*pagemapEntry)
	}
	t.first, t.entries = address, t.entries[:n*pagemapEntry]
	_, err = io.ReadFull(io.NewSectionReader(t.pages, int64(address/pageSize*pagemapEntry), int64(len(t.entries))), t.entries)
	return err
}

func (t *tracked) close() {
	if t == nil {
		return
	}
	_ = unix.Close(t.pidfd)
	_ = errors.Join(t.mem.Close(), t.pages.Close()) // what was never opened is nil, which is no fault here
}

// gone says whether err is that of a process that has ended.
func gone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) }
