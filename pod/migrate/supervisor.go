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

// ArrivalConnDescriptor is where the supervisor of an arriving pod finds its connection to `zap serve`. What comes there first is what
// ReceiveArrivalFiles reads, then a line with the job.
const ArrivalConnDescriptor = 3

// supervisor is serve's end of the connection to an arriving pod's supervisor.
type supervisor struct {
	cmd    *exec.Cmd
	conn   *net.UnixConn
	failed chan pod.ArrivalWord // its failure, whenever it comes
	words  chan pod.ArrivalWord // everything else
	exited chan struct{}

	confirmed chan struct{}
	gone      chan struct{} // closed when it says nothing more
}

// startSupervisor starts this program's hidden verb as a process of its own
// that outlives serve, once it has a job.
func startSupervisor(flags []string) (*supervisor, error) {
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
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	s := &supervisor{
		cmd: cmd, conn: conn.(*net.UnixConn), words: make(chan pod.ArrivalWord, 8), exited: make(chan struct{}),
		confirmed: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	go func() {
		_ = cmd.Wait()
		close(s.exited)
	}()
	return s, nil
}

// begin gives the supervisor its job, the images and the tmpfs trees. Its failure, whenever it comes, goes to failed.
func (s *supervisor) begin(job *pod.ArrivalJob, images *os.File, trees []*os.File, failed chan pod.ArrivalWord) error {
	err := sendFiles(s.conn, append([]*os.File{images}, trees...))
	if err == nil {
		err = json.NewEncoder(s.conn).Encode(job)
	}
	if err != nil {
		s.leave()
		return fmt.Errorf("start supervisor: %w", err)
	}
	s.failed = failed
	go s.read()
	return nil
}

// filesAtOnce is how many files a message carries at most; the kernel takes 253 (SCM_MAX_FD).
const filesAtOnce = 128

// sendFiles sends files, with one byte for each message of them: how many messages follow.
func sendFiles(conn *net.UnixConn, files []*os.File) error {
	for parts := slices.Collect(slices.Chunk(files, filesAtOnce)); len(parts) > 0; parts = parts[1:] {
		if len(parts) > 256 {
			return fmt.Errorf("send %d files: that is too many", len(files))
		}
		var fds []int
		for _, f := range parts[0] {
			fds = append(fds, int(f.Fd()))
		}
		if _, _, err := conn.WriteMsgUnix([]byte{byte(len(parts) - 1)}, unix.UnixRights(fds...), nil); err != nil {
			return err
		}
	}
	return nil
}

// ReceiveArrivalFiles reads the files that come before the job of a supervisor: the images, then the pod's tmpfs trees. It returns io.EOF when there is
// no job, for the supervisor was started in vain.
func ReceiveArrivalFiles(conn *net.UnixConn) (images *os.File, trees []*os.File, err error) {
	var files []*os.File
	for more := true; more; {
		follow, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*filesAtOnce))
		n, got, flags, _, err := conn.ReadMsgUnix(follow, oob)
		if err == nil && n == 0 {
			err = io.EOF
		}
		if err == nil && flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 {
			err = errors.New("files were lost on the way")
		}
		if err != nil {
			return nil, nil, err
		}
		messages, err := unix.ParseSocketControlMessage(oob[:got])
		if err != nil {
			return nil, nil, err
		}
		for _, m := range messages {
			fds, err := unix.ParseUnixRights(&m)
			if err != nil {
				return nil, nil, err
			}
			for _, fd := range fds {
				files = append(files, os.NewFile(uintptr(fd), "tree"))
			}
		}
		more = follow[0] > 0
	}
	if len(files) == 0 {
		return nil, nil, errors.New("no images came with the job")
	}
	return files[0], files[1:], nil
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
