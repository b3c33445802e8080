package runtime

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/spec"
)

// TestNothingLeaks has a program list its descriptors, its environment and its working directory, while the runtime has files of its own
// open that the kernel would pass on, and variables of its own.
func TestNothingLeaks(t *testing.T) {
	t.Setenv("ZAP_TEST_LEAK", "leaked")
	t.Chdir(t.TempDir())
	for range 20 { // not close-on-exec, as a caller may have left them
		fd, err := unix.Open("/etc", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	clean := "fd 0 /dev/null\nfd 1 PIPE\nfd 2 PIPE\nenv PATH=/bin\nenv OWN=1\nenv HOME=/root\ncwd /\n"
	for _, tt := range []struct {
		name     string
		start    func(l *lab, o CreateOptions)
		preserve int
		want     string
	}{
		{"run", func(l *lab, o CreateOptions) {
			c, err := l.runtime.Run(l.ctx, "test", l.lister(), o)
			l.finish(c, err)
		}, 0, clean},
		{"create", func(l *lab, o CreateOptions) {
			c, err := l.runtime.Create(l.ctx, "test", l.lister(), o)
			if err == nil {
				err = c.Start(l.ctx)
			}
			l.finish(c, err)
		}, 0, clean},
		{"create with descriptors to preserve", func(l *lab, o CreateOptions) {
			c, err := l.runtime.Create(l.ctx, "test", l.lister(), o)
			if err == nil {
				err = c.Start(l.ctx)
			}
			l.finish(c, err)
		}, 2, "fd 0 /dev/null\nfd 1 PIPE\nfd 2 PIPE\nfd 3 KEPT\nfd 4 KEPT\nenv PATH=/bin\nenv OWN=1\nenv HOME=/root\ncwd /\n"},
		{"exec", func(l *lab, o CreateOptions) {
			b := l.lister()
			p := *b.Spec.Process
			b.Spec.Process.Args = []string{"sleep", "1000"}
			c := l.create("test", b)
			if err := c.Start(l.ctx); err != nil {
				l.t.Fatal(err)
			}
			process, err := c.Exec(l.ctx, ExecOptions{Process: &p, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, PreserveFDs: o.PreserveFDs})
			if err != nil {
				l.t.Fatal(err)
			}
			if _, err := process.Wait(l.ctx); err != nil {
				l.t.Fatal(err)
			}
		}, 0, clean},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.preserve > 0 && os.Getenv(keptVariable) == "" {
				withKept(t)
				return
			}
			l := newLab(t)
			output, input := l.pipe()
			null := devNull(t)
			tt.start(l, CreateOptions{Stdin: null, Stdout: input, Stderr: input, PreserveFDs: tt.preserve})
			input.Close()
			_ = output.SetReadDeadline(time.Now().Add(20 * time.Second))
			data, err := io.ReadAll(output)
			if err != nil {
				t.Fatal(err)
			}
			var got strings.Builder
			for line := range strings.Lines(string(data)) {
				if fields := strings.Fields(line); len(fields) == 3 && strings.HasPrefix(fields[2], "pipe:") {
					line = fmt.Sprintf("fd %s PIPE\n", fields[1])
				} else if len(fields) == 3 && strings.HasSuffix(fields[2], "/KEPT") {
					line = fmt.Sprintf("fd %s KEPT\n", fields[1])
				}
				got.WriteString(line)
			}
			if got.String() != tt.want {
				t.Errorf("got\n%swant\n%s", got.String(), tt.want)
			}
		})
	}
}

// lister is a bundle whose program lists its descriptors, variables and working directory.
func (l *lab) lister() *spec.Bundle {
	b := l.bundle(`for f in /proc/$$/fd/*; do [ -L $f ] && { echo -n "fd ${f##*/} "; readlink $f; }; done
		busybox tr '\000' '\n' </proc/$$/environ | while read v; do echo env $v; done
		echo cwd $(readlink /proc/$$/cwd)`)
	b.Spec.Process.Env = []string{"PATH=/bin", "OWN=1"}
	return b
}

// finish waits for a container's program and removes the container.
func (l *lab) finish(c *Container, err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := (&Process{Pid: c.State().Pid}).Wait(l.ctx); err != nil {
		l.t.Fatal(err)
	}
	if err := c.Delete(l.ctx, true); err != nil {
		l.t.Fatal(err)
	}
}

// keptVariable tells this test that its descriptors 3 and 4 are files to preserve.
const keptVariable = "ZAP_TEST_KEPT"

// withKept runs the test in another process, which has a file as descriptors 3 and 4: here these may be the Go runtime's own.
func withKept(t *testing.T) {
	t.Helper()
	kept, err := os.Create(filepath.Join(t.TempDir(), "KEPT"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	parent, sub, _ := strings.Cut(t.Name(), "/")
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^"+parent+"$/^"+sub+"$")
	cmd.Env, cmd.ExtraFiles = append(os.Environ(), keptVariable+"=1"), []*os.File{kept, kept}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v: %s", err, out)
	}
}
