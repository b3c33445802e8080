package remote

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// outputDelay is how long a command's output is waited for after its end, when a process that it left behind has it open.
const outputDelay = 300 * time.Millisecond

// Server runs what clients ask for.
type Server struct {
	// Env is the environment of every command.
	Env []string
}

// Serve takes connections until the listener is closed.
func (s *Server) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		go s.handle(&wire{conn: conn})
	}
}

// handle runs one command.
func (s *Server) handle(w *wire) {
	defer w.conn.Close()
	typ, body, err := w.read()
	if err != nil || typ != typeRequest {
		return
	}
	var r Request
	if err := json.Unmarshal(body, &r); err != nil || len(r.Args) == 0 {
		_ = w.writeJSON(typeExit, Exit{Code: 127, Error: "not a request"})
		return
	}
	exit, err := s.run(w, &r)
	if err != nil {
		exit = Exit{Code: 127, Error: err.Error()}
	}
	_ = w.writeJSON(typeExit, exit)
}

// run runs the command. An error says that it was not started.
func (s *Server) run(w *wire, r *Request) (Exit, error) {
	cmd := exec.Command(r.Args[0], r.Args[1:]...)
	cmd.Env, cmd.Dir = append(append([]string{}, s.Env...), r.Env...), "/"
	if r.Dir != "" {
		cmd.Dir = r.Dir
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return Exit{}, err
	}
	var copies sync.WaitGroup
	var ends []io.Closer
	for typ, stream := range map[byte]*io.Writer{typeStdout: &cmd.Stdout, typeStderr: &cmd.Stderr} {
		from, to, err := os.Pipe()
		if err != nil {
			return Exit{}, err
		}
		defer from.Close()
		ends, *stream = append(ends, to), to
		copies.Go(func() { w.copyFrom(typ, from) })
	}
	err = cmd.Start()
	for _, end := range ends {
		end.Close()
	}
	if err != nil {
		return Exit{}, err
	}
	var ended atomic.Bool
	go w.feed(stdin, cmd.Process.Pid, &ended)
	err = cmd.Wait()
	ended.Store(true)
	waitFor(&copies, outputDelay)
	return exitOf(cmd.ProcessState, err)
}

// feed gives the command what the client sends, and kills it when the client is gone before its end.
func (w *wire) feed(stdin io.WriteCloser, pid int, ended *atomic.Bool) {
	defer stdin.Close()
	for {
		typ, body, err := w.read()
		if ended.Load() {
			return
		}
		if err != nil {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
			return
		}
		switch {
		case typ == typeSignal && len(body) == 1:
			_ = syscall.Kill(-pid, syscall.Signal(body[0]))
		case typ == typeStdin && len(body) == 0:
			stdin.Close()
		case typ == typeStdin:
			_, _ = stdin.Write(body)
		}
	}
}

// waitFor waits for the group, but no longer than most.
func waitFor(group *sync.WaitGroup, most time.Duration) {
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(most):
	}
}

func exitOf(state *os.ProcessState, err error) (Exit, error) {
	var left *exec.ExitError
	if err != nil && !errors.As(err, &left) {
		return Exit{}, err
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return Exit{Code: 128 + int(status.Signal())}, nil
	}
	return Exit{Code: state.ExitCode()}, nil
}
