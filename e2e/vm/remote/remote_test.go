package remote

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serve starts a server on the loopback and answers with a way to connect to it.
func serve(t *testing.T) func() net.Conn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go (&Server{Env: []string{"PATH=" + os.Getenv("PATH"), "WHERE=there"}}).Serve(l)
	return func() net.Conn {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
}

// TestRun runs commands and looks at their streams, environment and exit codes.
func TestRun(t *testing.T) {
	dial := serve(t)
	long := strings.Repeat("0123456789", 50_000)
	for _, c := range []struct {
		name, stdin    string
		args, env      []string
		code           int
		stdout, stderr string
		dir            string
	}{
		{name: "streams", args: []string{"sh", "-c", "cat; echo bad >&2; exit 3"}, stdin: long, code: 3, stdout: long, stderr: "bad\n"},
		{name: "environment", args: []string{"sh", "-c", "echo $WHERE $MORE"}, env: []string{"MORE=and more"}, stdout: "there and more\n"},
		{name: "directory", args: []string{"pwd"}, dir: "/proc", stdout: "/proc\n"},
		{name: "signal", args: []string{"sh", "-c", "kill -9 $$"}, code: 137},
		{name: "not there", args: []string{"/no/such/program"}, code: 127},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			exit, err := Run(ctx, dial(), Request{Args: c.args, Env: c.env, Dir: c.dir}, Streams{Stdin: strings.NewReader(c.stdin), Stdout: &stdout, Stderr: &stderr})
			if err != nil {
				t.Fatal(err)
			}
			if exit.Code != c.code || stdout.String() != c.stdout || stderr.String() != c.stderr {
				t.Errorf("%+v, %d bytes of output, %q", exit, stdout.Len(), stderr.String())
			}
			if (exit.Error != "") != (c.code == 127) {
				t.Errorf("error %q with code %d", exit.Error, exit.Code)
			}
		})
	}
}

// TestSignals sends a signal to a command that catches it.
func TestSignals(t *testing.T) {
	dial := serve(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, in := io.Pipe()
	signals := make(chan syscall.Signal, 1)
	go func() {
		buf := make([]byte, 6)
		io.ReadFull(out, buf)
		signals <- syscall.SIGTERM
		io.Copy(io.Discard, out)
	}()
	script := `trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done`
	exit, err := Run(ctx, dial(), Request{Args: []string{"sh", "-c", script}}, Streams{Stdout: in, Signals: signals})
	if err != nil || exit.Code != 5 {
		t.Errorf("%+v, %v", exit, err)
	}
}

// TestLost wants a command to be killed when the client is gone.
func TestLost(t *testing.T) {
	dial := serve(t)
	ctx, cancel := context.WithCancel(context.Background())
	out, in := io.Pipe()
	go Run(ctx, dial(), Request{Args: []string{"sh", "-c", "echo $$; exec sleep 1000"}}, Streams{Stdout: in})
	buf := make([]byte, 16)
	n, err := out.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for deadline := time.Now().Add(20 * time.Second); syscall.Kill(pid, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d goes on without its client", pid)
		}
	}
}
