package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/spec"
)

// lab is a runtime in a temporary directory and a bundle whose programs are busybox's.
type lab struct {
	t       *testing.T
	runtime *Runtime
	ctx     context.Context
}

func newLab(t *testing.T) *lab {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces, cgroups and mounts")
	}
	patience := 30 * time.Second
	if os.Getenv("ZAP_TEST_SLOWNESS") != "" { // an emulated machine
		patience = 3 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return &lab{t: t, runtime: New(filepath.Join(t.TempDir(), "root"), slog.New(slog.DiscardHandler)), ctx: ctx}
}

// rootfs makes a small root file system.
func rootfs(t *testing.T) string {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skipf("needs Debian's busybox-static (make deps): %v", err)
	}
	dir := t.TempDir()
	for _, d := range []string{"bin", "etc", "tmp", "root", "home/user"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := map[string]string{
		"bin/busybox": string(busybox), "etc/passwd": "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
		"etc/plain": "no program\n", "bin/self": "#!/proc/self/exe\n",
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "etc/plain"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{"sh", "cat", "id", "sleep", "ls", "true", "stat", "mount", "readlink", "hostname", "touch", "ps", "kill", "tty", "stty", "grep", "echo", "env"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", tool)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// bundle returns the default bundle without a terminal, running a shell script.
func (l *lab) bundle(script string) *spec.Bundle {
	l.t.Helper()
	s := spec.Default()
	s.Process.Terminal = false
	s.Process.Args = []string{"sh", "-c", script}
	s.Root.Path = rootfs(l.t)
	s.Linux.CgroupsPath = fmt.Sprintf("/zap-test-%d/%s", os.Getpid(), filepath.Base(l.t.TempDir()+"-"+strings.ReplaceAll(l.t.Name(), "/", "-")))
	l.t.Cleanup(func() { removeTestCgroups(l.t) })
	return &spec.Bundle{Dir: l.t.TempDir(), Spec: s}
}

// hasNamespace says whether the bundle asks for a namespace of that type.
func hasNamespace(b *spec.Bundle, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(b.Spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

// removeTestCgroups removes the parent of the test's cgroups where it is empty.
func removeTestCgroups(*testing.T) {
	parents, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/zap-test-%d", os.Getpid()))
	parents = append(parents, fmt.Sprintf("/sys/fs/cgroup/zap-test-%d", os.Getpid()))
	for _, dir := range parents {
		_ = os.Remove(dir)
	}
}

// run runs a bundle to its end and returns what it wrote and its exit code.
func (l *lab) run(b *spec.Bundle) (string, int) {
	l.t.Helper()
	output, input := l.pipe()
	c, err := l.runtime.Run(l.ctx, "test", b, CreateOptions{Stdin: devNull(l.t), Stdout: input, Stderr: input})
	input.Close()
	if err != nil {
		l.t.Fatal(err)
	}
	text, err := io.ReadAll(output)
	if err != nil {
		l.t.Fatal(err)
	}
	code, err := (&Process{Pid: c.State().Pid}).Wait(l.ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := c.Delete(l.ctx, true); err != nil {
		l.t.Fatal(err)
	}
	return string(text), code
}

func (l *lab) pipe() (reader, writer *os.File) {
	l.t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { reader.Close(); writer.Close() })
	_ = reader.SetReadDeadline(time.Now().Add(20 * time.Second))
	return reader, writer
}

func devNull(t *testing.T) *os.File {
	f, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// create makes a container whose output goes nowhere and that is removed with the test.
func (l *lab) create(id string, b *spec.Bundle) *Container {
	l.t.Helper()
	null := devNull(l.t)
	c, err := l.runtime.Create(l.ctx, id, b, CreateOptions{Stdin: null, Stdout: null, Stderr: null})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { l.remove(c) })
	return c
}

// remove reaps and deletes a container, if it is still there.
func (l *lab) remove(c *Container) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = unix.Kill(c.State().Pid, unix.SIGKILL)
	_, _ = (&Process{Pid: c.State().Pid}).Wait(ctx)
	if err := c.Delete(ctx, true); err != nil && !errors.Is(err, ErrNotExist) {
		l.t.Errorf("clean up: %v", err)
	}
}

// exec runs a shell script in a container and returns what it wrote and its exit code.
func (l *lab) exec(c *Container, script string) (string, int) {
	l.t.Helper()
	p := *c.State().Bundle.Spec.Process
	p.Args = []string{"sh", "-c", script}
	output, input := l.pipe()
	process, err := c.Exec(l.ctx, ExecOptions{Process: &p, Stdin: devNull(l.t), Stdout: input, Stderr: input})
	input.Close()
	if err != nil {
		l.t.Fatal(err)
	}
	text, err := io.ReadAll(output)
	if err != nil {
		l.t.Fatal(err)
	}
	code, err := process.Wait(l.ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	return string(text), code
}
