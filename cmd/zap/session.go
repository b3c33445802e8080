package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/signals"
)

// session is a program in the foreground: it gets this command's signals, and its terminal is this command's.
type session struct {
	terminal *terminal // nil without one
	adopts   bool      // orphans of the container become children of this process
}

// newSession catches the signals of this command, for good: what comes while the container is removed must not end that half-way.
func newSession(tty bool) (*session, error) {
	s := new(session)
	if tty {
		s.terminal = new(terminal)
	}
	signal.Ignore(unix.SIGPIPE)
	if err := signals.Catch(); err != nil {
		return nil, err
	}
	return s, nil
}

// adoptOrphans has what the container's processes leave behind become children of this one, which waits for them: where the container
// has no first process of its own that does.
func (s *session) adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("adopt processes: %w", err)
	}
	s.adopts = true
	return signals.Catch(unix.SIGCHLD)
}

// console returns what takes the master of the program's terminal.
func (s *session) console() func(*os.File) error {
	if s.terminal == nil {
		return nil
	}
	return s.terminal.take
}

// wait passes signals on until the program ends, and returns its exit code.
func (s *session) wait(ctx context.Context, p *runtime.Process) (int, error) {
	pidfd, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		return -1, fmt.Errorf("wait for process %d: %w", p.Pid, err)
	}
	defer unix.Close(pidfd)
	if err := signals.Wait(pidfd, func(sig unix.Signal) { s.pass(sig, p.Pid) }); err != nil {
		return -1, err
	}
	code, err := p.Wait(ctx)
	if s.terminal != nil {
		s.terminal.drain()
	}
	return code, err
}

// pass gives the program a signal that this command got. The program is this command's child and not waited for yet, so the pid is its.
func (s *session) pass(sig unix.Signal, pid int) {
	switch {
	case sig == unix.SIGCHLD:
		reapOthers(pid)
	case sig == unix.SIGWINCH && s.terminal != nil:
		s.terminal.resize()
	default:
		_ = unix.Kill(pid, sig)
	}
}

// reapOthers waits for the children that have ended, up to the one that wait waits for: when that has, the rest is of no interest.
func reapOthers(pid int) {
	for {
		var info unix.Siginfo
		if unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) != nil {
			return
		}
		// The child's id follows the three numbers that the information about every signal begins with; without a child it is 0.
		ended := int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), 16)))
		if ended == 0 || ended == pid {
			return
		}
		_, _ = unix.Wait4(ended, nil, 0, nil)
	}
}

func (s *session) close() {
	if s.terminal != nil {
		s.terminal.close()
	}
}
