package migrate

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/pod"
)

// Descriptors of the supervisor of an arriving pod: the connection to `zap
// serve`, whose first line is the job, then the images, then the tmpfs trees.
const (
	ArrivalConnDescriptor   = 3
	ArrivalImagesDescriptor = 4
)

// supervisor is serve's end of the connection to an arriving pod's supervisor.
type supervisor struct {
	cmd    *exec.Cmd
	conn   net.Conn
	failed chan pod.ArrivalWord // its failure, whenever it comes
	words  chan pod.ArrivalWord // everything else
	exited chan struct{}

	confirmed chan struct{}
	gone      chan struct{} // closed when it says nothing more
}

// startSupervisor starts this program's hidden verb as a process of its own
// that outlives serve.
func startSupervisor(flags []string, job *pod.ArrivalJob, images *os.File, trees []*os.File, failed chan pod.ArrivalWord) (*supervisor, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "supervisor"), os.NewFile(uintptr(fds[1]), "serve")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", append(slices.Clone(flags), "supervise", "--arrival")...)
	cmd.ExtraFiles = append([]*os.File{theirs, images}, trees...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	s := &supervisor{
		cmd: cmd, conn: conn, words: make(chan pod.ArrivalWord, 8), failed: failed, exited: make(chan struct{}),
		confirmed: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	go s.read()
	go func() {
		_ = cmd.Wait()
		close(s.exited)
	}()
	if err := json.NewEncoder(conn).Encode(job); err != nil {
		return s, fmt.Errorf("start supervisor: %w", err)
	}
	return s, nil
}

// read sorts the supervisor's words: failures go to whoever listens.
func (s *supervisor) read() {
	defer close(s.gone)
	lines := bufio.NewReader(s.conn)
	for {
		var w pod.ArrivalWord
		line, err := lines.ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &w)
		}
		if err != nil {
			w = pod.ArrivalWord{Word: pod.ArrivalFailed, Error: "the pod's supervisor went away"}
			if !errors.Is(err, io.EOF) {
				w.Error += ": " + err.Error()
			}
		}
		if w.Word == pod.ArrivalFailed {
			select {
			case s.failed <- w:
			default:
			}
			if err != nil {
				return
			}
			continue
		}
		if w.Word == pod.ArrivalConfirmed {
			s.confirmed <- struct{}{}
			continue
		}
		s.words <- w
	}
}

// confirm asks the supervisor itself whether the pod is prepared still: nobody
// else knows that it lives.
func (s *supervisor) confirm() bool {
	s.say(pod.ArrivalConfirm)
	select {
	case <-s.confirmed:
		return true
	case <-s.gone:
		return false
	}
}

// say sends a word; that the supervisor is gone shows when an answer is expected.
func (s *supervisor) say(word string) { s.tell(pod.ArrivalWord{Word: word}) }

func (s *supervisor) tell(w pod.ArrivalWord) {
	if s != nil {
		_ = json.NewEncoder(s.conn).Encode(w)
	}
}

// supervisorError is the failure that a supervisor tells.
type supervisorError struct{ word pod.ArrivalWord }

func (e *supervisorError) Error() string { return e.word.Error }

// expect waits for a word of the supervisor.
func (s *supervisor) expect(ctx context.Context, word string) (*pod.ArrivalWord, error) {
	select {
	case w := <-s.words:
		if w.Word != word {
			return nil, fmt.Errorf("the pod's supervisor said %q where %q was expected", w.Word, word)
		}
		return &w, nil
	case w := <-s.failed:
		return nil, &supervisorError{w}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// outcome waits for how a pod that was prepared ends: it runs, or is gone.
func (s *supervisor) outcome() (*pod.ArrivalWord, error) {
	select {
	case w := <-s.words:
		return &w, nil
	case w := <-s.failed:
		return nil, &supervisorError{w}
	}
}

// leave closes the connection: a supervisor whose pod is not prepared discards it.
func (s *supervisor) leave() { s.conn.Close() }

// wait waits until the supervisor has ended.
func (s *supervisor) wait() { <-s.exited }
