package pod

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// testPipes are a pod's streams with the pod's ends kept here; the log is in a directory of its own.
func testPipes(t *testing.T, stdin bool) (s *streams, in, out, errs *os.File) {
	t.Helper()
	log := newLog(filepath.Join(t.TempDir(), "log"))
	s, err := newPipes(log, stdin, [3]bool{})
	if err != nil {
		t.Fatal(err)
	}
	var ends [3]*os.File
	for i, f := range s.child {
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err == nil {
			err = unix.SetNonblock(fd, true)
		}
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = os.NewFile(uintptr(fd), "pod")
	}
	s.start()
	t.Cleanup(func() {
		s.close()
		log.close()
		for _, f := range ends {
			f.Close()
		}
	})
	return s, ends[0], ends[1], ends[2]
}

// attached is a client of the streams. It reads frames of a kind when asked to.
func attached(t *testing.T, s *streams) net.Conn {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socket")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	s.attach(conns[0], nil, false)
	t.Cleanup(func() { conns[0].Close(); conns[1].Close() })
	if err := conns[1].SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conns[1]
}

func wantFrame(t *testing.T, c net.Conn, kind byte, data string) {
	t.Helper()
	var got []byte
	for len(got) < len(data) || len(data) == 0 {
		k, part, err := ReadFrame(c)
		if err != nil || k != kind {
			t.Fatalf("a frame of kind %d, %q: %v; want kind %d", k, part, err, kind)
		}
		if got = append(got, part...); len(data) == 0 {
			break
		}
	}
	if string(got) != data {
		t.Fatalf("kind %d: %q, want %q", kind, got, data)
	}
}

func TestStreams(t *testing.T) {
	s, in, out, errs := testPipes(t, true)
	a, b := attached(t, s), attached(t, s)
	fmt.Fprint(out, "hello\n")
	for _, c := range []net.Conn{a, b} {
		wantFrame(t, c, FrameStdout, "hello\n")
	}
	fmt.Fprint(errs, "oh\n")
	for _, c := range []net.Conn{a, b} {
		wantFrame(t, c, FrameStderr, "oh\n")
	}
	if err := s.write([]byte("typed")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := in.Read(buf); err != nil || string(buf[:n]) != "typed" {
		t.Errorf("the pod reads %q, %v", buf[:n], err)
	}
	if err := s.write(nil); err != nil {
		t.Fatal(err)
	}
	if n, err := in.Read(buf); err != io.EOF {
		t.Errorf("after the end of its input the pod reads %q, %v", buf[:n], err)
	}
	if err := s.write([]byte("more")); err != nil {
		t.Errorf("write to an input that is closed: %v", err)
	}
	s.detach(a)
	s.end(FrameExit, []byte{0, 0, 0, 3})
	wantFrame(t, b, FrameExit, "\x00\x00\x00\x03")
	if _, _, err := ReadFrame(b); err != io.EOF {
		t.Errorf("after the last frame: %v", err)
	}
	late := attached(t, s)
	wantFrame(t, late, FrameExit, "\x00\x00\x00\x03")
	if got, _ := readLog(t, s.log.path, LogOptions{Tail: -1}); got != "hello\n" {
		t.Errorf("the log has %q", got)
	}
}

// TestStreamsReplay attaches while the pod writes: the client gets all of it, once.
func TestStreamsReplay(t *testing.T) {
	s, _, out, _ := testPipes(t, false)
	var want strings.Builder
	for i := range 300 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	fmt.Fprint(out, "line 0\n")
	until(t, "the first line", func() bool { return s.log.written() > 0 })
	go func() {
		for i := 1; i < 300; i++ {
			fmt.Fprintf(out, "line %d\n", i)
		}
	}()
	near, far := net.Pipe()
	defer near.Close()
	if err := near.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	s.attach(far, []byte("hello\n"), true)
	reader := bufio.NewReader(near)
	if line, err := reader.ReadString('\n'); line != "hello\n" || err != nil {
		t.Errorf("first %q, %v", line, err)
	}
	got := ""
	for len(got) < want.Len() {
		_, data, err := ReadFrame(reader)
		if err != nil {
			t.Fatal(err)
		}
		got += string(data)
	}
	if got != want.String() {
		t.Errorf("got %q", got)
	}
}

func TestStreamsWithoutInput(t *testing.T) {
	_, in, _, _ := testPipes(t, false)
	if n, err := in.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the pod reads %d bytes, %v", n, err)
	}
}

// TestStreamsSlowClient attaches a client that never reads. It may hold up the pod's output for a while, but not the log's
// last bytes when the pod is about to move.
func TestStreamsSlowClient(t *testing.T) {
	s, _, out, _ := testPipes(t, false)
	attached(t, s)
	chunk := bytes.Repeat([]byte("x"), 32<<10)
	chunk[len(chunk)-1] = '\n'
	written := 0
	for {
		if err := out.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		n, err := out.Write(chunk)
		if written += n; err != nil {
			break // the client holds it up
		}
	}
	s.drain(10 * time.Second)
	got, _ := readLog(t, s.log.path, LogOptions{Tail: -1})
	if len(got) != written {
		t.Errorf("%d bytes are in the log, the pod wrote %d", len(got), written)
	}
}

// TestDrain writes while it is drained: what was written before the drain is in the log when it ends.
func TestDrain(t *testing.T) {
	s, _, out, errs := testPipes(t, false)
	for i := range 200 {
		fmt.Fprintf(out, "line %d\n", i)
		fmt.Fprintf(errs, "also %d\n", i)
		size := s.drain(10 * time.Second)
		info, err := os.Stat(s.log.path)
		if err != nil || info.Size() != size {
			t.Fatalf("drained %d bytes, the log has %d, %v", size, info.Size(), err)
		}
		got, gotErrs := readLog(t, s.log.path, LogOptions{Tail: 2})
		if want := fmt.Sprintf("line %d\n", i); !strings.HasSuffix(got, want) || gotErrs != fmt.Sprintf("also %d\n", i) {
			t.Fatalf("after %d: %q and %q", i, got, gotErrs)
		}
	}
}

// TestStreamsClose closes streams whose readers are busy.
func TestStreamsClose(t *testing.T) {
	for range 50 {
		s, _, out, _ := testPipes(t, true)
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			for range 100 {
				if _, err := out.Write([]byte("x\n")); err != nil {
					return
				}
			}
		}()
		s.close()
		out.Close()
		<-stop
	}
}
