package signals

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pipeEnd is the descriptor that the handler writes to.
var pipeEnd atomic.Int32

// readEnd is the other one, once there is a pipe.
var readEnd = sync.OnceValues(func() (int, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return -1, fmt.Errorf("catch signals: %w", err)
	}
	pipeEnd.Store(int32(ends[1]))
	return ends[0], nil
})

// handlerAddress and restorerAddress are where the handler is, and what it returns to.
func handlerAddress() unsafe.Pointer
func restorerAddress() unsafe.Pointer

// action is the kernel's struct sigaction.
type action struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const (
	flagRestorer = 0x04000000 // SA_RESTORER
	flagOnStack  = 0x08000000 // SA_ONSTACK: Go's own stacks are too small
	flagRestart  = 0x10000000 // SA_RESTART
	lastSignal   = 64
)

// kept are the signals that Catch leaves to the Go runtime: those that can't be caught, those that a process gets for its own mistakes,
// those that the runtime uses for itself, and SIGPIPE, which comes of this process's own writes. 32 and 33 belong to C libraries.
var kept = []unix.Signal{
	unix.SIGKILL, unix.SIGSTOP, unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGSYS, unix.SIGURG, unix.SIGPROF,
	unix.SIGPIPE, unix.SIGCHLD, 32, 33,
}

// Catch has all signals of this process, but those that are about the process itself, go to Next from now on, for good. More names
// signals that are caught as well: SIGCHLD can be.
func Catch(more ...unix.Signal) error {
	if _, err := readEnd(); err != nil {
		return err
	}
	leave := uint64(0)
	for _, sig := range kept {
		leave |= 1 << sig
	}
	for _, sig := range more {
		leave &^= 1 << sig
	}
	a := &action{
		handler: uintptr(handlerAddress()), restorer: uintptr(restorerAddress()), flags: flagRestorer | flagOnStack | flagRestart, mask: ^uint64(0),
	}
	for sig := 1; sig <= lastSignal; sig++ {
		if sig < lastSignal && leave&(1<<sig) != 0 {
			continue
		}
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(a)), 0, 8, 0, 0)
		if errno != 0 {
			return fmt.Errorf("catch signal %d: %w", sig, errno)
		}
	}
	return nil
}

// Wait calls pass with each signal that has come or comes, until the process that pidfd is a descriptor of has ended. What came before that
// is passed before Wait returns. It is for one caller at a time.
func Wait(pidfd int, pass func(unix.Signal)) error {
	read, err := readEnd()
	if err != nil {
		return err
	}
	for {
		fds := []unix.PollFd{{Fd: int32(read), Events: unix.POLLIN}, {Fd: int32(pidfd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for signals: %w", err)
		}
		var numbers [64]byte
		for {
			n, err := unix.Read(read, numbers[:])
			if n <= 0 || err != nil {
				break // EAGAIN: there are no more
			}
			for _, sig := range numbers[:n] {
				pass(unix.Signal(sig))
			}
		}
		if fds[1].Revents != 0 {
			return nil
		}
	}
}
