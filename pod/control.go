package pod

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The control socket of a supervisor: one JSON request line, one JSON answer
// line; after an attach the connection carries frames (attach.go).
const (
	controlName   = "control.sock"
	controlMax    = 16 << 20
	OpStatus      = "status"  // answer: Status
	OpAttach      = "attach"  // then frames
	OpWait        = "wait"    // answers when the program has ended: Code
	OpDrain       = "drain"   // all output so far is in the log: LogSize
	OpMoved       = "moved"   // the pod runs at Peer now: forget it when it has died here
	OpCommit      = "commit"  // an arrived pod may run
	OpAbort       = "abort"   // an arrived pod is dropped
	OpArrival     = "arrival" // the move that brought the pod: Phase, Migration
	controlDialIn = 5 * time.Second
)

// Request is what a client asks of a supervisor.
type Request struct {
	Op        string `json:"op"`
	Peer      string `json:"peer,omitempty"`
	Migration string `json:"migration,omitempty"`
	Stdin     bool   `json:"stdin,omitempty"`
	Replay    bool   `json:"replay,omitempty"` // of an attach: begin with what the pod has written before
	Rows      uint16 `json:"rows,omitempty"`
	Columns   uint16 `json:"columns,omitempty"`
}

// Answer is what a supervisor answers; Error is empty when it did as asked.
type Answer struct {
	Error      string `json:"error,omitempty"`
	Status     string `json:"status,omitempty"`
	Pid        int    `json:"pid,omitempty"`
	Code       int    `json:"code,omitempty"`
	Moved      string `json:"moved,omitempty"` // the peer that has the pod now
	LogSize    int64  `json:"log_size,omitempty"`
	Migration  string `json:"migration,omitempty"`
	Phase      string `json:"phase,omitempty"`
	TTY        bool   `json:"tty,omitempty"`
	Rows       uint16 `json:"rows,omitempty"` // of the pod's terminal
	Columns    uint16 `json:"columns,omitempty"`
	HeldFrames int    `json:"held_frames,omitempty"`
}

// ErrNoSupervisor says that nobody answers for the pod.
var ErrNoSupervisor = errors.New("the pod's supervisor does not answer")

// socketPath names the control socket of the pod in dir by a path that is
// short enough for a socket address, however long dir is. The file has to stay
// open while the path is used.
func socketPath(dir string) (string, *os.File, error) {
	d, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), controlName), d, nil
}

// Dial opens the control socket of the pod in dir and makes one request.
// The connection is for what follows the answer (frames of an attach).
func Dial(ctx context.Context, dir string, r Request) (*Answer, *bufio.Reader, net.Conn, error) {
	path, d, err := socketPath(dir)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", ErrNoSupervisor, err)
	}
	defer d.Close()
	dialer := net.Dialer{Timeout: controlDialIn}
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %w", ErrNoSupervisor, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	answer, reader, err := ask(conn, r)
	if err != nil {
		conn.Close()
		return nil, nil, nil, fmt.Errorf("control socket of pod %s: %s: %w", filepath.Base(dir), r.Op, err)
	}
	return answer, reader, conn, nil
}

func ask(conn net.Conn, r Request) (*Answer, *bufio.Reader, error) {
	if err := json.NewEncoder(conn).Encode(r); err != nil {
		return nil, nil, err
	}
	reader := bufio.NewReader(conn)
	line, err := readLine(reader)
	if err != nil {
		return nil, nil, err
	}
	var a Answer
	if err := json.Unmarshal(line, &a); err != nil {
		return nil, nil, err
	}
	if a.Error != "" {
		return nil, nil, errors.New(a.Error)
	}
	return &a, reader, nil
}

// Ask makes one request of the supervisor of the pod in dir.
func Ask(ctx context.Context, dir string, r Request) (*Answer, error) {
	a, _, conn, err := Dial(ctx, dir, r)
	if err != nil {
		return nil, err
	}
	return a, conn.Close()
}

// readLine reads one line of at most controlMax bytes.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			if errors.Is(err, io.EOF) && len(line) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		case len(line) > controlMax:
			return nil, fmt.Errorf("line longer than %d bytes", controlMax)
		}
	}
}

// listenControl makes the control socket of the pod in dir.
func listenControl(dir string) (*net.UnixListener, error) {
	path, d, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make control socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	return l, os.Chmod(path, 0o600)
}
