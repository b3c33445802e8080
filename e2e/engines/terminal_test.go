package engines

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// screen is a terminal at which a command runs, with somebody who types and reads.
type screen struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	ended  chan error

	mu   sync.Mutex
	text strings.Builder
}

// newScreen starts a command at a terminal of its own, with 30 lines of 90 characters. It ends with the test at the latest.
func newScreen(t *testing.T, args ...string) *screen {
	t.Helper()
	master, slave, err := openTerminal()
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	s := &screen{t: t, master: master, cmd: exec.Command(args[0], args[1:]...), ended: make(chan error, 1)}
	s.resize(30, 90)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = slave, slave, slave
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { s.ended <- s.cmd.Wait() }()
	go s.read()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		master.Close()
	})
	return s
}

func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	master = os.NewFile(uintptr(fd), "master")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, err
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, err
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	return master, slave, err
}

func (s *screen) read() {
	buf := make([]byte, 4096)
	for {
		n, err := s.master.Read(buf)
		s.mu.Lock()
		s.text.WriteString(strings.ReplaceAll(string(buf[:n]), "\r\r", "\r")) // ctr has both terminals write a carriage return
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// resize changes the terminal's size, of which the command is told.
func (s *screen) resize(lines, columns uint16) {
	s.t.Helper()
	raw, err := s.master.SyscallConn()
	if err != nil {
		s.t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: lines, Col: columns})
	})
	if err != nil || failed != nil {
		s.t.Fatal(err, failed)
	}
}

func (s *screen) shows() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// do types keys and waits until the screen shows, after that, what is wanted, which the keys themselves must not contain.
func (s *screen) do(keys, want string) {
	s.t.Helper()
	from := len(s.shows())
	if _, err := io.WriteString(s.master, keys); err != nil {
		s.t.Fatalf("type %q: %v", keys, err)
	}
	s.waitFor(from, want)
}

func (s *screen) waitFor(from int, want string) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(s.shows()[from:], want); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain for %q, the screen shows %q", want, s.shows()[from:])
		}
	}
}

// wantEnd waits for the command to end with that exit code.
func (s *screen) wantEnd(code int) {
	s.t.Helper()
	select {
	case <-s.ended:
		if got := s.cmd.ProcessState.ExitCode(); got != code {
			s.t.Errorf("%s ended with %d, not %d: %q", strings.Join(s.cmd.Args, " "), got, code, s.shows())
		}
	case <-time.After(30 * time.Second):
		s.t.Fatalf("%s does not end: %q", strings.Join(s.cmd.Args, " "), s.shows())
	}
}

// useShell is what is done at the terminal of a shell in a container.
func (s *screen) useShell() {
	s.t.Helper()
	s.do("echo one$((1+1))three\r", "one2three\r\n")
	s.do("stty size\r", "30 90\r\n")
	s.resize(20, 70)
	for deadline := time.Now().Add(10 * time.Second); ; { // the size comes with a signal
		from := len(s.shows())
		s.do("stty size; echo size$((1+1))\r", "size2")
		if strings.Contains(s.shows()[from:], "20 70\r\n") {
			break
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the new size does not arrive: %q", s.shows())
		}
	}
	s.do("tty; echo tty$((1+1))\r", "/dev/pts/0\r\ntty2")
	s.do("sh -c 'echo begun$((1+1)); exec sleep 7777'\r", "begun2")
	s.do("\x03", "")
	s.do("echo code $?\r", "code 130\r\n")
	s.do("sh -c 'echo cat$((1+1)); exec cat'\r", "cat2\r\n")
	s.do("typed\r", "typed\r\ntyped\r\n")
	s.do("\x04echo end$((1+1))\r", "end2")
	s.do("sh -c 'echo more$((1+1)); exec sleep 7777'\r", "more2")
	s.do("\x1a", "Stopped")
	s.do("fg\r", "exec sleep 7777")
	s.do("\x03", "")
	s.do("jobs; echo jobs$((1+1))\r", "jobs2")
}
