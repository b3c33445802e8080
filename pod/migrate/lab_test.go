package migrate

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
)

// patience bounds every wait of the tests.
const patience = 20 * time.Second

// TestMain is also what a target starts as a pod's supervisor: one that dies.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "supervise") {
		if n, _ := unix.Poll([]unix.PollFd{{Fd: ArrivalConnDescriptor, Events: unix.POLLIN}}, 200); n > 0 {
			_, _ = bufio.NewReader(os.NewFile(ArrivalConnDescriptor, "serve")).ReadBytes('\n')
		}
		os.Exit(3) // with a job, or when none came
	}
	if os.Getenv(watchesClock) != "" {
		watchClock()
	}
	os.Exit(m.Run())
}

// pair is both ends of a connection over loopback.
func pair(t *testing.T) (a, b *stream.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a, b = stream.NewConn(near), stream.NewConn(far)
	a.SetIdle(patience)
	b.SetIdle(patience)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// testPod is a pod of zap's that has ended, as its files tell, in a root directory of its own.
func testPod(t *testing.T, name string) (*runtime.Runtime, *pod.Pod) {
	t.Helper()
	rt := runtime.New(t.TempDir(), slog.New(slog.DiscardHandler))
	if err := os.Mkdir(rt.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	state := fmt.Sprintf(`{"version":1,"id":%q,"bundle":{"dir":"/","spec":{}},"cgroupPath":"/zap/test-%d-%s","pod":{"uid":"1","streams":["","",""]}}`, name, os.Getpid(), name)
	if err := os.WriteFile(filepath.Join(rt.Dir(name), "state.json"), []byte(state), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := pod.Load(rt, name)
	if err != nil {
		t.Fatal(err)
	}
	return rt, p
}

// within fails the test when f takes too long.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("%s does not end", what)
	}
}

// noLeaks wants, when the test is over, no more goroutines and descriptors to be there than now.
func noLeaks(t *testing.T) {
	t.Helper()
	count := func() (goroutines, files int) {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return goruntime.NumGoroutine(), len(names)
	}
	g, f := count()
	t.Cleanup(func() {
		var gNow, fNow int
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if gNow, fNow = count(); gNow <= g && fNow <= f {
				return
			}
		}
		stacks := make([]byte, 64<<10)
		t.Errorf("%d goroutines and %d descriptors, were %d and %d\n%s", gNow, fNow, g, f, stacks[:goruntime.Stack(stacks, true)])
	})
}
