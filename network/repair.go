package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Repair puts every TCP socket of the processes into repair mode, or takes it
// out (TCP_REPAIR, tcp(7)). A socket in repair mode says nothing to its peer when
// it is closed, and is gone at once. One that is left in it by a CRIU that was
// killed answers its peer with a reset.
func Repair(pids []int, on bool) error {
	for _, pid := range pids {
		pidfd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open process %d: %w", pid, err)
		}
		err = repairOf(pidfd, pid, on)
		unix.Close(pidfd)
		if err != nil {
			return err
		}
	}
	return nil
}

func repairOf(pidfd, pid int, on bool) error {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil // it has ended
	}
	for _, name := range names {
		target, err := os.Readlink(filepath.Join(dir, name.Name()))
		if err != nil || !strings.HasPrefix(target, "socket:") {
			continue
		}
		number, err := strconv.Atoi(name.Name())
		if err != nil {
			continue
		}
		fd, err := unix.PidfdGetfd(pidfd, number, 0)
		if err != nil {
			continue
		}
		err = repairSocket(fd, on)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("set repair of socket %d of process %d: %w", number, pid, err)
		}
	}
	return nil
}

// repairSocket sets the mode of one socket; sockets of other protocols, and
// those that listen, are left alone.
func repairSocket(fd int, on bool) error {
	mode, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR)
	if err != nil || (mode == unix.TCP_REPAIR_ON) == on {
		return nil
	}
	if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); on && (err != nil || listens == 1) {
		return nil
	}
	value := unix.TCP_REPAIR_OFF
	if on {
		value = unix.TCP_REPAIR_ON
	}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, value)
	if on && errors.Is(err, unix.EPERM) {
		return nil // in a state, such as one that closes, in which the kernel does not allow it
	}
	return err
}
