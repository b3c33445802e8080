package runtime

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/spec"
)

// This test binary is also a program for containers: what it does there is in this variable.
const attackVariable = "ZAP_TEST_INSIDE"

func init() {
	switch os.Getenv(attackVariable) {
	case "":
		return
	case "exe":
		stealBinary()
	}
	os.Exit(0)
}

// stealBinary looks for processes that run another binary of this program than its own file, opens it and tries to write to it.
func stealBinary() {
	var own unix.Stat_t
	_ = unix.Stat("/proc/self/exe", &own)
	fmt.Println("ready")
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if _, err := os.Stat("/stop"); err == nil {
			break
		}
		all, _ := filepath.Glob("/proc/[0-9]*")
		for _, p := range all {
			if link, err := os.Readlink(p + "/exe"); err == nil && strings.HasSuffix(link, ".test") {
				fmt.Println("seen", link)
			}
			fd, err := unix.Open(p+"/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			var st unix.Stat_t
			if unix.Fstat(fd, &st) == nil && st.Size == own.Size && (st.Ino != own.Ino || st.Dev != own.Dev) {
				fmt.Println("opened", p)
				tryToWrite(fd)
			}
			unix.Close(fd)
		}
	}
	fmt.Println("done")
}

// tryToWrite opens a file for writing by its descriptor until that works, for a while.
func tryToWrite(fd int) {
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		if w, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_CLOEXEC, 0); err == nil {
			fmt.Println("WRITABLE")
			unix.Close(w)
			return
		}
	}
}

// inside makes a bundle run this test binary. It skips the test where that is not static.
func (l *lab) inside(what string) *spec.Bundle {
	l.t.Helper()
	self, err := os.Executable()
	if err != nil {
		l.t.Fatal(err)
	}
	image, err := elf.Open(self)
	if err != nil {
		l.t.Fatal(err)
	}
	defer image.Close()
	for _, p := range image.Progs {
		if p.Type == elf.PT_INTERP {
			l.t.Skip("needs a static test binary: CGO_ENABLED=0 go test")
		}
	}
	b := l.bundle("")
	data, err := os.ReadFile(self)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.RootPath(), "bin/inside"), data, 0o755); err != nil {
		l.t.Fatal(err)
	}
	b.Spec.Process.Args = []string{"/bin/inside"}
	b.Spec.Process.Env = []string{"PATH=/bin", attackVariable + "=" + what}
	return b
}

// exchange makes two names change places as fast as it goes, until the function it returns is called.
func exchange(t *testing.T, a, b string) (stop func()) {
	t.Helper()
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		t.Skipf("needs renameat2 with RENAME_EXCHANGE: %v", err)
	}
	done := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	})
	return sync.OnceFunc(func() { close(done); group.Wait() })
}

// A race is run for at least so long and so often.
const (
	raceFor   = time.Second
	raceTimes = 5
)

// race makes a container of a bundle again and again while something changes that is stopped before the program runs. It looks
// at each: what it printed, or why it is not there.
func (l *lab) race(b *spec.Bundle, change func() (stop func()), look func(output string, err error)) {
	l.t.Helper()
	ran, refused := 0, 0
	for end := time.Now().Add(raceFor); time.Now().Before(end) || ran+refused < raceTimes; {
		output, err := l.try(b, change)
		if err == nil {
			ran++
		} else {
			refused++
		}
		look(output, err)
		if l.t.Failed() {
			return
		}
	}
	l.t.Logf("%d containers ran, %d were refused", ran, refused)
}

// try is run for a bundle that may be refused, while something changes.
func (l *lab) try(b *spec.Bundle, change func() (stop func())) (string, error) {
	l.t.Helper()
	output, input, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	defer output.Close()
	stop := func() {}
	if change != nil {
		stop = change()
	}
	c, err := l.runtime.Create(l.ctx, "try", b, CreateOptions{
		Stdin: devNull(l.t), Stdout: input, Stderr: input, Console: func(master *os.File) error {
			l.t.Cleanup(func() { master.Close() })
			return nil
		},
	})
	stop()
	input.Close()
	if err != nil {
		return "", err
	}
	if err := c.Start(l.ctx); err != nil {
		l.remove(c)
		return "", err
	}
	_ = output.SetReadDeadline(time.Now().Add(20 * time.Second))
	text, _ := io.ReadAll(output)
	if _, err := (&Process{Pid: c.State().Pid}).Wait(l.ctx); err != nil {
		l.t.Fatal(err)
	}
	if err := c.Delete(l.ctx, true); err != nil {
		l.t.Fatal(err)
	}
	return string(text), nil
}
