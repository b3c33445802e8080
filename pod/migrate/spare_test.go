package migrate

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/pod"
)

// unixPair is both ends of a socket pair.
func unixPair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends []*net.UnixConn
	for _, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		ends = append(ends, conn.(*net.UnixConn))
	}
	return ends[0], ends[1]
}

// TestArrivalFiles sends more files than one message takes, and wants them in their order.
func TestArrivalFiles(t *testing.T) {
	for _, count := range []int{1, filesAtOnce, 2*filesAtOnce + 1} {
		near, far := unixPair(t)
		var files []*os.File
		for i := range count {
			f, err := os.Create(filepath.Join(t.TempDir(), strconv.Itoa(i)))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			files = append(files, f)
		}
		sent := make(chan error, 1)
		go func() { sent <- errors.Join(sendFiles(near, files), near.Close()) }()
		images, trees, err := ReceiveArrivalFiles(far)
		if err := errors.Join(err, <-sent); err != nil {
			t.Fatal(err)
		}
		got := append([]*os.File{images}, trees...)
		if len(got) != count {
			t.Fatalf("%d files came, not %d", len(got), count)
		}
		for i, f := range got {
			defer f.Close()
			one, err1 := f.Stat()
			other, err2 := files[i].Stat()
			if err1 != nil || err2 != nil || !os.SameFile(one, other) {
				t.Errorf("file %d of %d is another one", i, count)
			}
		}
		if _, _, err := ReceiveArrivalFiles(far); !errors.Is(err, io.EOF) {
			t.Errorf("then: %v", err)
		}
	}
	near, far := unixPair(t)
	if _, err := near.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ReceiveArrivalFiles(far); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("no files: %v", err)
	}
}

// TestSpare wants a supervisor that waits to be the next one, to be replaced when it has died, and not to be started beside another.
func TestSpare(t *testing.T) {
	target := testTarget(t) // its supervisors end when they have a job, and soon without one
	employ := func() *supervisor {
		t.Helper()
		null, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer null.Close()
		s, err := target.employ(new(pod.ArrivalJob), null, nil, make(chan pod.ArrivalWord, 1))
		if err != nil {
			t.Fatal(err)
		}
		within(t, "the end of a supervisor", s.wait)
		s.leave()
		return s
	}
	first := target.startSpare()
	if first == nil || target.spare != first {
		t.Fatal("none waits")
	}
	if target.startSpare() != nil || target.spare != first {
		t.Error("another one waits")
	}
	if employ() != first || target.spare != nil {
		t.Error("the one that waited did not get the job")
	}
	target.spare = first // which is dead
	if employ() == first {
		t.Error("a dead one got the job")
	}
	target.warm()()
	if target.spare != nil {
		t.Error("one waits for a connection that is over")
	}
	target.moves = map[string]*incoming{"token": nil}
	if target.startSpare() != nil {
		t.Error("one is started for the lanes of a move that has one")
	}
}
