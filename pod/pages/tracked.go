package pages

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// tracked is a process whose writes the kernel has tracked since its memory was last looked at (soft-dirty bits). What CRIU's dump finds clean
// is at the target then, as it was sent.
type tracked struct {
	pid   int
	pidfd int
	mem   *os.File // its memory, once something of it is wanted
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

func (t *tracked) close() {
	if t == nil {
		return
	}
	_ = unix.Close(t.pidfd)
	if t.mem != nil {
		_ = t.mem.Close()
	}
}

// gone says whether err is that of a process that has ended.
func gone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) }
