package pod

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestReadLine(t *testing.T) {
	long := strings.Repeat("x", controlMax/2)
	for name, tt := range map[string]struct {
		text, want string
		err        error
	}{
		"a line":         {"hello\nworld\n", "hello\n", nil},
		"empty":          {"\n", "\n", nil},
		"nothing":        {"", "", io.EOF},
		"half a line":    {"hel", "", io.ErrUnexpectedEOF},
		"a long line":    {long + "\n", long + "\n", nil},
		"half a long":    {long, "", io.ErrUnexpectedEOF},
		"with NUL bytes": {"a\x00b\n", "a\x00b\n", nil},
	} {
		got, err := readLine(bufio.NewReader(strings.NewReader(tt.text)))
		if string(got) != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: %d bytes, %v; want %d, %v", name, len(got), err, len(tt.want), tt.err)
		}
	}
	// One that never ends is given up soon after the limit.
	endless := &countingReader{}
	if _, err := readLine(bufio.NewReader(endless)); err == nil || endless.n > controlMax+1<<16 {
		t.Errorf("of an endless line %d bytes were read, %v", endless.n, err)
	}
}

type countingReader struct{ n int }

func (r *countingReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	r.n += len(p)
	return len(p), nil
}

// controlled is a supervisor with streams and a control socket, but without a pod.
func controlled(t *testing.T) (s *Supervisor, out *os.File, in *os.File) {
	t.Helper()
	stream, in, out, _ := testPipes(t, true)
	s = &Supervisor{
		dir: filepath.Dir(stream.log.path), stream: stream, ended: make(chan struct{}), log: slog.New(slog.DiscardHandler), pid: 4711,
	}
	l, err := listenControl(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	s.serve(l)
	t.Cleanup(func() {
		l.Close()
		s.finishAnswers()
	})
	return s, out, in
}

func ctx(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return c
}

func TestControl(t *testing.T) {
	s, out, _ := controlled(t)
	a, err := Ask(ctx(t), s.dir, Request{Op: OpStatus})
	if err != nil || a.Status != StatusRunning || a.Pid != 4711 {
		t.Errorf("status: %+v, %v", a, err)
	}
	if _, err := Ask(ctx(t), s.dir, Request{Op: "dance"}); err == nil || !strings.Contains(err.Error(), "dance") {
		t.Errorf("an unknown request: %v", err)
	}
	if _, err := out.WriteString("last words\n"); err != nil {
		t.Fatal(err)
	}
	a, err = Ask(ctx(t), s.dir, Request{Op: OpDrain})
	if info, serr := os.Stat(s.stream.log.path); err != nil || serr != nil || a.LogSize != info.Size() || a.LogSize == 0 {
		t.Errorf("drain: %+v, %v, %v", a, err, serr)
	}
	for _, op := range []string{OpCommit, OpAbort, OpArrival} {
		if a, err := Ask(ctx(t), s.dir, Request{Op: op, Migration: "x"}); err != nil || a.Phase != phaseDiscarded {
			t.Errorf("%s of a pod that did not arrive: %+v, %v", op, a, err)
		}
	}
	waited := make(chan *Answer)
	go func() {
		a, err := Ask(ctx(t), s.dir, Request{Op: OpWait})
		if err != nil {
			t.Error(err)
		}
		waited <- a
	}()
	if _, err := Ask(ctx(t), s.dir, Request{Op: OpMoved, Peer: "beta:1"}); err != nil {
		t.Error(err)
	}
	s.code = 3
	close(s.ended)
	if a := <-waited; a == nil || a.Code != 3 || a.Moved != "beta:1" {
		t.Errorf("wait: %+v", a)
	}
	if a, err := Ask(ctx(t), s.dir, Request{Op: OpStatus}); err != nil || a.Status != StatusStopped || a.Code != 3 {
		t.Errorf("status of what has ended: %+v, %v", a, err)
	}
	s.stream.end(FrameExit, []byte{0, 0, 0, 3})
	_, reader, conn, err := Dial(ctx(t), s.dir, Request{Op: OpAttach, Replay: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, want := range []string{"last words\n", "\x00\x00\x00\x03"} {
		if _, data, err := ReadFrame(reader); string(data) != want || err != nil {
			t.Errorf("attached to what has ended: %q, %v, want %q", data, err, want)
		}
	}
}

func TestControlAttach(t *testing.T) {
	s, out, in := controlled(t)
	a, reader, conn, err := Dial(ctx(t), s.dir, Request{Op: OpAttach, Stdin: true, Rows: 24, Columns: 80})
	if err != nil || a.Status != StatusRunning || a.TTY {
		t.Fatalf("%+v, %v", a, err)
	}
	defer conn.Close()
	_, silent, watcher, err := Dial(ctx(t), s.dir, Request{Op: OpAttach})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	// Who has the answer is attached: nothing is missed from there on.
	if _, err := out.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	for _, r := range []*bufio.Reader{reader, silent} {
		if kind, data, err := ReadFrame(r); kind != FrameStdout || string(data) != "hello" || err != nil {
			t.Errorf("kind %d, %q, %v", kind, data, err)
		}
	}
	if err := WriteFrame(watcher, FrameStdin, []byte("not asked for")); err != nil {
		t.Fatal(err)
	}
	for _, f := range [][]byte{{0, 1, 0, 2}, {1}, nil} { // a size, and what is none
		if err := WriteFrame(conn, FrameResize, f); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteFrame(conn, FrameStdin, []byte("typed")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 32)
	if n, err := in.Read(buf); err != nil || string(buf[:n]) != "typed" {
		t.Errorf("the pod reads %q, %v", buf[:n], err)
	}
	if _, err := conn.Write([]byte{FrameStdin, 0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ReadFrame(reader); err == nil {
		t.Error("a frame of 4 GiB was taken")
	}
	s.stream.end(FrameMoved, []byte("beta:1"))
	if kind, data, err := ReadFrame(silent); kind != FrameMoved || string(data) != "beta:1" || err != nil {
		t.Errorf("kind %d, %q, %v", kind, data, err)
	}
}

// TestControlMalformed says to a supervisor what is no request.
func TestControlMalformed(t *testing.T) {
	s, _, _ := controlled(t)
	for name, text := range map[string]string{
		"no document": "hello\n", "another document": "[1,2]\n", "nothing": "", "half a line": `{"op":`, "an empty line": "\n",
		"a wrong type": `{"op":7}` + "\n",
	} {
		conn, err := net.Dial("unix", filepath.Join(s.dir, controlName))
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil || len(answer) > 0 && !bytes.Contains(answer, []byte("error")) {
			t.Errorf("%s: answer %q, %v", name, answer, err)
		}
		conn.Close()
	}
	if _, err := Ask(ctx(t), s.dir, Request{Op: OpStatus}); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestControlSocket wants the socket to be root's, to replace one that a crash left, and to work however long its path is.
func TestControlSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	first, err := listenControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	if _, err := Ask(ctx(t), dir, Request{Op: OpStatus}); !errors.Is(err, ErrNoSupervisor) {
		t.Errorf("nobody listens: %v", err)
	}
	second, err := listenControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if info, err := os.Stat(filepath.Join(dir, controlName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	s := &Supervisor{ended: make(chan struct{}), stream: newStreams(newLog(LogPath(dir))), log: slog.New(slog.DiscardHandler)}
	s.serve(second)
	if _, err := Ask(ctx(t), dir, Request{Op: OpStatus}); err != nil {
		t.Error(err)
	}
}

func TestControlNobody(t *testing.T) {
	for _, dir := range []string{t.TempDir(), "/nowhere/at/all"} {
		if _, err := Ask(ctx(t), dir, Request{Op: OpStatus}); !errors.Is(err, ErrNoSupervisor) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	// One that takes the connection and says nothing is waited for as long as the caller wants.
	dir := t.TempDir()
	l, err := listenControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	brief, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Ask(brief, dir, Request{Op: OpStatus}); err == nil || !strings.Contains(err.Error(), OpStatus) {
		t.Errorf("a silent one: %v", err)
	}
}
