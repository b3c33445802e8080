package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// serveTimeout bounds how long zap serve takes until it listens: it tries CRIU first, which takes its time in emulation.
const serveTimeout = time.Minute

// Server is a running zap serve.
type Server struct {
	Host *Host
	Pid  int // of zap itself: nsenter and what Wrap names replace themselves by it

	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{}
	log  string
}

// Serve starts zap serve in the host, with h.ServeFlags, and waits until it listens. env is added to its environment, as
// NAME=VALUE.
func (h *Host) Serve(t testing.TB, env ...string) *Server {
	t.Helper()
	s := &Server{Host: h, t: t, done: make(chan struct{}), log: h.lab.Path(fmt.Sprintf("%s-serve-%d.log", h.Name, len(h.servers)))}
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s.cmd = h.Command(context.Background(), h.binary(t), h.zapArgs(append(append(h.logFlags(), "serve", "--listen", h.Peer(), "--tls", h.TLS), h.ServeFlags...)...)...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.Env = append(os.Environ(), env...)
	if err := processes.start(s.cmd); err != nil {
		t.Fatalf("start zap serve on %s: %v", h.Name, err)
	}
	h.servers = append(h.servers, s)
	go func() {
		processes.wait(s.cmd)
		close(s.done)
	}()
	s.Pid = s.cmd.Process.Pid
	WaitFor(t, serveTimeout, "zap serve to listen on "+h.Name, func() bool {
		if s.ended() {
			t.Fatalf("zap serve on %s ended: %v: %s", h.Name, s.cmd.ProcessState, lines(tail(s.log)))
		}
		return s.listening()
	})
	return s
}

// Stop ends the server as an operator does.
func (s *Server) Stop() { s.t.Helper(); s.end(unix.SIGTERM) }

// Kill ends the server as a crash does.
func (s *Server) Kill() { s.t.Helper(); s.end(unix.SIGKILL) }

func (s *Server) end(sig unix.Signal) {
	s.t.Helper()
	if s.ended() {
		return
	}
	if err := s.cmd.Process.Signal(sig); err != nil && !s.ended() {
		s.t.Fatalf("signal zap serve: %v", err)
	}
	select {
	case <-s.done:
	case <-time.After(15 * time.Second):
		s.t.Errorf("zap serve on %s did not end after %v", s.Host.Name, sig)
		s.cmd.Process.Kill()
		<-s.done
	}
}

func (s *Server) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// listens says whether a TCP socket listens on the port in the network namespace of pid.
func listens(pid, port int) bool {
	want := fmt.Sprintf(":%04X", port)
	for _, table := range []string{"tcp", "tcp6"} {
		data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/net/" + table)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(data) {
			f := strings.Fields(string(line))
			if len(f) > 3 && strings.HasSuffix(f[1], want) && f[3] == "0A" {
				return true
			}
		}
	}
	return false
}

// WaitFor waits until done, looking every few milliseconds, and fails the test when that takes longer than within.
func WaitFor(t testing.TB, within time.Duration, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("wait for %s: not within %v", what, within)
		}
	}
}
