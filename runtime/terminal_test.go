package runtime

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestTerminal checks a container's terminal: the controlling one, its size, /dev/console, and that nobody but the parent has the master.
func TestTerminal(t *testing.T) {
	l := newLab(t)
	b := l.bundle("tty; stty size; echo word >/dev/tty; [ -c /dev/console ] && echo console; for f in 3 4 5 6 7 8 9; do [ -e /proc/1/fd/$f ] && echo $f; done")
	b.Spec.Process.Terminal = true
	b.Spec.Process.ConsoleSize = &specs.Box{Height: 33, Width: 77}
	master := make(chan *os.File, 1)
	c, err := l.runtime.Create(l.ctx, "one", b, CreateOptions{Console: func(m *os.File) error { master <- m; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.remove(c) })
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	out := readTerminal(t, <-master)
	if want := "/dev/pts/0\r\n33 77\r\nword\r\nconsole\r\n"; out != want {
		t.Errorf("got  %q\nwant %q", out, want)
	}
}

// TestConsoleSocket takes the terminal over a unix socket, as conmon and containerd do.
func TestConsoleSocket(t *testing.T) {
	l := newLab(t)
	b := l.bundle("tty; stty -a 2>/dev/null | grep -o -E -e '-?onlcr'")
	b.Spec.Process.Terminal = true
	socket := filepath.Join(t.TempDir(), "console")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	master := make(chan *os.File, 1)
	go func() {
		defer close(master)
		conn, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		data, control := make([]byte, 64), make([]byte, 64)
		_, n, _, _, err := conn.ReadMsgUnix(data, control)
		messages, perr := unix.ParseSocketControlMessage(control[:n])
		if err != nil || perr != nil || len(messages) != 1 {
			return
		}
		if fds, err := unix.ParseUnixRights(&messages[0]); err == nil {
			master <- os.NewFile(uintptr(fds[0]), string(data))
		}
	}()
	c, err := l.runtime.Create(l.ctx, "one", b, CreateOptions{ConsoleSocket: socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.remove(c) })
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	terminal := <-master
	if terminal == nil {
		t.Fatal("no descriptor came")
	}
	// It is as the kernel makes it: conmon changes it, and a shell that has started by then would put back what it found.
	if out := readTerminal(t, terminal); out != "/dev/pts/0\r\nonlcr\r\n" {
		t.Errorf("got %q", out)
	}
}

// readTerminal reads until the last process has closed the other end.
func readTerminal(t *testing.T, master *os.File) string {
	t.Helper()
	defer master.Close()
	var out []byte
	buf := make([]byte, 4096)
	for {
		n, err := master.Read(buf)
		out = append(out, buf[:n]...)
		if err != nil {
			return string(out) // EIO at the end
		}
	}
}

// TestExecTerminal runs another process on a terminal of its own.
func TestExecTerminal(t *testing.T) {
	l := newLab(t)
	c := l.create("one", l.bundle("sleep 1000"))
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	p := *c.State().Bundle.Spec.Process
	p.Terminal, p.Args = true, []string{"sh", "-c", "tty; echo word >/dev/tty"}
	master := make(chan *os.File, 1)
	process, err := c.Exec(l.ctx, ExecOptions{Process: &p, Console: func(m *os.File) error { master <- m; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if out := readTerminal(t, <-master); out != "/dev/pts/0\r\nword\r\n" {
		t.Errorf("got %q", out)
	}
	if code, err := process.Wait(l.ctx); err != nil || code != 0 {
		t.Errorf("exit %d, %v", code, err)
	}
}
