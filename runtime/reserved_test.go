package runtime

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// reservedProgram is where this program is in a container's root file system when it shall be [beReserved].
const reservedProgram = "/reserved"

func init() {
	if os.Args[0] == reservedProgram {
		if err := beReserved(); err != nil {
			_ = os.WriteFile("/dev/shm/answer", []byte(err.Error()), 0o600)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// beReserved has memory in a mapping with MAP_NORESERVE that nobody may access any more, and looks at a signal whether it is as it was.
func beReserved() error {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, unix.SIGUSR1)
	want := bytes.Repeat([]byte("written before "), 10000)
	memory, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return err
	}
	copy(memory, want)
	if err := errors.Join(unix.Mprotect(memory, unix.PROT_NONE), os.WriteFile("/dev/shm/ready", []byte("yes"), 0o600)); err != nil {
		return err
	}
	<-asked
	if err := unix.Mprotect(memory, unix.PROT_READ); err != nil {
		return err
	}
	if !bytes.Equal(memory[:len(want)], want) {
		return errors.New("it has changed")
	}
	return os.WriteFile("/dev/shm/answer", []byte("it is as it was"), 0o600)
}

// installReserved puts the program into a root file system.
func installReserved(t *testing.T, root string) {
	t.Helper()
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(root, reservedProgram), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// reserve starts the program in a container and waits until it has its memory.
func (l *lab) reserve(c *Container) {
	l.t.Helper()
	l.exec(c, reservedProgram+" < /dev/null > /dev/null 2>&1 &")
	l.await(c, "/dev/shm/ready")
}

// reserved asks the program for its memory.
func (l *lab) reserved(c *Container) {
	l.t.Helper()
	l.exec(c, "for p in /proc/[0-9]*; do case $(cat $p/cmdline) in "+reservedProgram+"*) kill -USR1 ${p#/proc/};; esac; done")
	if got := l.await(c, "/dev/shm/answer"); got != "it is as it was" {
		l.t.Errorf("memory that can't be accessed: %s", got)
	}
}

// await waits for a file in the container and returns its content.
func (l *lab) await(c *Container, path string) string {
	l.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if text, code := l.exec(c, "cat "+path); code == 0 && text != "" {
			return strings.TrimSpace(text)
		}
	}
	l.t.Fatalf("%s does not come", path)
	return ""
}
