package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/boot"
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
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
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

// TestDefaultBundle checks what the default specification promises, seen from inside.
func TestDefaultBundle(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"user", "id -u; id -g", "0\n0\n"},
		{"hostname", "hostname", "runc\n"},
		{"working directory", "pwd", "/\n"},
		{"home", "echo $HOME", "/root\n"},
		{"first process", "echo $$", "1\n"},
		{"session leader", "cut -d' ' -f6 /proc/1/stat", "1\n"},
		{"no new privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"},
		{"capabilities", "grep -E 'Cap(Prm|Eff|Bnd|Inh|Amb)' /proc/self/status | sort",
			"CapAmb:\t0000000000000000\nCapBnd:\t0000000020000420\nCapEff:\t0000000020000420\nCapInh:\t0000000000000000\nCapPrm:\t0000000020000420\n"},
		{"limits", "ulimit -Sn; ulimit -Hn", "1024\n1024\n"},
		{"descriptors", "for f in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/1/fd/$f ] && echo $f; done", "0\n1\n2\n"},
		{"umask", "umask", "0022\n"},
		{"read-only root", "touch /file 2>&1", "touch: /file: Read-only file system\n"},
		{"read-only path", "echo 1 2>&1 >/proc/sys/kernel/printk", "sh: can't create /proc/sys/kernel/printk: Read-only file system\n"},
		{"masked file", "cat /proc/keys; echo $?", "0\n"},
		{"masked directory", "ls -A /sys/firmware; touch /sys/firmware/x 2>&1", "touch: /sys/firmware/x: Read-only file system\n"},
		{"shared memory", "stat -c %a /dev/shm; touch /dev/shm/x && echo ok", "1777\nok\n"},
		{"devices", "cd /dev; stat -c '%n %F %t:%T %a' null zero full random urandom tty; readlink fd; readlink stdin; readlink ptmx",
			"null character special file 1:3 666\nzero character special file 1:5 666\nfull character special file 1:7 666\n" +
				"random character special file 1:8 666\nurandom character special file 1:9 666\ntty character special file 5:0 666\n" +
				"/proc/self/fd\n/proc/self/fd/0\npts/ptmx\n"},
		{"no host mounts", "grep -c -v -E ' /(dev|proc|sys)?[/a-z._]* ' /proc/mounts", "0\n"},
		{"network", "grep -c : /proc/net/dev", "1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			b := l.bundle(c.script)
			for _, tool := range []string{"cut", "sort"} {
				if err := os.Symlink("busybox", filepath.Join(b.RootPath(), "bin", tool)); err != nil {
					t.Fatal(err)
				}
			}
			if out, _ := l.run(b); out != c.want {
				t.Errorf("%s\ngot  %q\nwant %q", c.script, out, c.want)
			}
		})
	}
}

// TestSignals checks that a program begins with no signal blocked, ignored or caught, although this one has handlers.
func TestSignals(t *testing.T) {
	l := newLab(t)
	b := l.bundle("")
	b.Spec.Process.Args = []string{"grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"}
	want := "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n"
	if out, _ := l.run(b); out != want {
		t.Errorf("got %q", out)
	}
}

// TestCgroupMembership checks that the process is in the container's cgroup of every hierarchy, and sees it under /sys/fs/cgroup.
func TestCgroupMembership(t *testing.T) {
	l := newLab(t)
	b := l.bundle("cat /proc/self/cgroup; cat /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null")
	out, _ := l.run(b)
	memberships := 0
	for line := range strings.Lines(out) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
			if memberships++; fields[2] != b.Spec.Linux.CgroupsPath {
				t.Errorf("in cgroup %s, want %s", line, b.Spec.Linux.CgroupsPath)
			}
		}
	}
	if memberships == 0 || !strings.Contains(out, "\n1\n") {
		t.Errorf("no membership, or the container does not see its own processes:\n%s", out)
	}
}

// TestExitCode checks that the exit code and the signal of the program arrive.
func TestExitCode(t *testing.T) {
	l := newLab(t)
	if _, code := l.run(l.bundle("exit 42")); code != 42 {
		t.Errorf("exit code %d, want 42", code)
	}
	if _, code := l.run(l.bundle("sh -c 'kill -KILL $$'; exit $?")); code != 137 {
		t.Errorf("exit code %d, want 137", code)
	}
}

// TestLifecycle walks a container through its statuses.
func TestLifecycle(t *testing.T) {
	l := newLab(t)
	b := l.bundle("sleep 1000")
	c := l.create("one", b)
	expect := func(want specs.ContainerState) {
		t.Helper()
		loaded, err := l.runtime.Load("one")
		if err != nil {
			t.Fatal(err)
		}
		if got := loaded.Status(); got != want {
			t.Fatalf("status %s, want %s", got, want)
		}
	}
	expect(specs.StateCreated)
	if _, err := l.runtime.Create(l.ctx, "one", b, CreateOptions{}); !errors.Is(err, ErrExist) {
		t.Errorf("second create: %v, want %v", err, ErrExist)
	}
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	expect(specs.StateRunning)
	if err := c.Start(l.ctx); err == nil {
		t.Error("second start succeeded")
	}
	if err := c.Delete(l.ctx, false); err == nil {
		t.Error("delete of a running container succeeded")
	}
	cg, err := c.Cgroup()
	if err != nil {
		t.Fatal(err)
	}
	if err := cg.Freeze(l.ctx); err != nil {
		t.Fatal(err)
	}
	expect(StatePaused)
	if err := cg.Thaw(l.ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(unix.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if _, err := (&Process{Pid: c.State().Pid}).Wait(l.ctx); err != nil {
		t.Fatal(err)
	}
	expect(specs.StateStopped)
	if err := c.Kill(unix.SIGKILL, false); !errors.Is(err, ErrNotRunning) {
		t.Errorf("kill of a stopped container: %v, want %v", err, ErrNotRunning)
	}
	if err := c.Delete(l.ctx, false); err != nil {
		t.Fatal(err)
	}
	if _, err := l.runtime.Load("one"); !errors.Is(err, ErrNotExist) {
		t.Errorf("load after delete: %v, want %v", err, ErrNotExist)
	}
}

// TestKillCreated checks that a signal that would end a program ends one that has not begun.
func TestKillCreated(t *testing.T) {
	l := newLab(t)
	c := l.create("one", l.bundle("sleep 1000"))
	if err := c.Kill(unix.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	if code, err := (&Process{Pid: c.State().Pid}).Wait(l.ctx); err != nil || code != 128+9 {
		t.Errorf("exit %d, %v; want 137", code, err)
	}
}

// TestExec checks that another process is in all of the container's namespaces and its cgroup, and leads a session of its own.
func TestExec(t *testing.T) {
	l := newLab(t)
	b := l.bundle("sleep 1000")
	b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace},
		specs.LinuxNamespace{Type: specs.CgroupNamespace})
	b.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 5_000_000}}
	b.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_SYS_PTRACE"}, Permitted: []string{"CAP_SYS_PTRACE"}, Effective: []string{"CAP_SYS_PTRACE"}}
	c := l.create("one", b)
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	out, code := l.exec(c, `for n in cgroup ipc mnt net pid time uts; do
		[ "$(readlink /proc/self/ns/$n)" = "$(readlink /proc/1/ns/$n)" ] || echo "other $n namespace"; done
	[ "$(cat /proc/self/cgroup)" = "$(cat /proc/1/cgroup)" ] || echo other cgroup
	read up rest </proc/uptime; [ "${up%.*}" -gt 5000000 ] || echo "uptime $up"
	read pid comm state ppid pgrp session rest </proc/self/stat; [ "$session" = "$$" ] || echo "session $session"
	for f in 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$f ] && echo "descriptor $f"; done
	exit 3`)
	if out != "" || code != 3 {
		t.Errorf("exit code %d, output %q", code, out)
	}
}

// TestExecFailures checks what callers look for in the errors, and that a failure leaves the container alone.
func TestExecFailures(t *testing.T) {
	l := newLab(t)
	c := l.create("one", l.bundle("sleep 1000"))
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ program, want string }{
		{"nothing", `exec "nothing": executable file not found in $PATH (process: process.args)`},
		{"/bin/nothing", `exec "/bin/nothing": no such file or directory (process: process.args)`},
		{"/etc/plain", `exec "/etc/plain": permission denied (process: process.args)`},
		{"/etc", `exec "/etc": permission denied (process: process.args)`},
	} {
		p := *c.State().Bundle.Spec.Process
		p.Args = []string{test.program}
		_, err := c.Exec(l.ctx, ExecOptions{Process: &p})
		var failure *boot.Failure
		if !errors.As(err, &failure) || failure.Error() != test.want {
			t.Errorf("exec %s: %v, want %s", test.program, err, test.want)
		}
	}
	if got := c.Status(); got != specs.StateRunning {
		t.Errorf("status %s afterwards", got)
	}
}

// TestCreateFailureLeavesNothing checks that a creation that fails late is undone.
func TestCreateFailureLeavesNothing(t *testing.T) {
	l := newLab(t)
	b := l.bundle("true")
	b.Spec.Process.Args = []string{"nothing"}
	_, err := l.runtime.Create(l.ctx, "one", b, CreateOptions{})
	if !errors.Is(err, boot.ErrNotFound) {
		t.Fatalf("create: %v, want %v", err, boot.ErrNotFound)
	}
	if _, err := os.Stat(l.runtime.Dir("one")); !os.IsNotExist(err) {
		t.Errorf("the container's directory is there: %v", err)
	}
	left, _ := filepath.Glob("/sys/fs/cgroup/*" + b.Spec.Linux.CgroupsPath)
	if len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
}

// TestMountFailureNamesItsOrigin checks the message that no other runtime has.
func TestMountFailureNamesItsOrigin(t *testing.T) {
	l := newLab(t)
	b := l.bundle("true")
	b.Spec.Mounts[3].Options = append(b.Spec.Mounts[3].Options, "nonsense=1")
	_, err := l.runtime.Create(l.ctx, "one", b, CreateOptions{})
	want := "mount tmpfs on /dev/shm: invalid argument (config.json: mounts[3])"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("create: %v, want %s", err, want)
	}
}

// TestStartFailure removes the program between create and start: start has to say so.
func TestStartFailure(t *testing.T) {
	l := newLab(t)
	b := l.bundle("true")
	c := l.create("one", b)
	if err := os.Remove(filepath.Join(b.RootPath(), "bin/busybox")); err != nil {
		t.Fatal(err)
	}
	err := c.Start(l.ctx)
	var failure *boot.Failure
	if !errors.As(err, &failure) || !errors.Is(err, unix.ENOENT) {
		t.Errorf("start: %v, want that sh is not there", err)
	}
}

// TestOverlay runs on layers that are mounted only inside the container.
func TestOverlay(t *testing.T) {
	l := newLab(t)
	b := l.bundle("echo changed >/etc/plain; cat /etc/plain /etc/second; echo $HOME")
	b.Spec.Root.Readonly = false
	b.Spec.Process.Cwd = "/made/for/it"
	dir := t.TempDir()
	second := filepath.Join(dir, "a,b:c")
	b.Overlay = &spec.Overlay{Lower: []string{second, b.RootPath()}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}
	for _, d := range []string{filepath.Join(second, "etc"), b.Overlay.Upper, b.Overlay.Work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(second, "etc/second"), []byte("second\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, _ := l.run(b); out != "changed\nsecond\n/root\n" {
		t.Errorf("output %q", out)
	}
	if data, err := os.ReadFile(filepath.Join(b.Overlay.Upper, "etc/plain")); err != nil || string(data) != "changed\n" {
		t.Errorf("upper layer: %q, %v", data, err)
	}
	if data, err := os.ReadFile(filepath.Join(b.RootPath(), "etc/plain")); err != nil || string(data) != "no program\n" {
		t.Errorf("lower layer: %q, %v", data, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("the host sees a mount of the container's: %v", err)
	}
}

// TestSymlinkedMountpoint has an image whose mountpoint leads out of it: the mount has to stay inside.
func TestSymlinkedMountpoint(t *testing.T) {
	l := newLab(t)
	outside := t.TempDir()
	b := l.bundle("ls /escape; ls " + outside)
	b.Spec.Root.Readonly = false
	if err := os.Symlink(outside, filepath.Join(b.RootPath(), "escape")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(b.RootPath(), outside), 0o755); err != nil {
		t.Fatal(err)
	}
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b.Spec.Mounts = append(b.Spec.Mounts,
		specs.Mount{Destination: "/escape", Source: source, Type: "bind", Options: []string{"bind"}},
		specs.Mount{Destination: "/escape/../../../../made", Source: source, Type: "bind", Options: []string{"rbind", "ro"}})
	out, code := l.run(b)
	if code != 0 || out != "file\nfile\n" {
		t.Errorf("exit code %d, output %q", code, out)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside: %v, %v", entries, err)
	}
}

// TestBindMounts checks files, directories, missing mountpoints and options.
func TestBindMounts(t *testing.T) {
	l := newLab(t)
	b := l.bundle("cat /new/file; touch /new/file /new/dir/x 2>&1; ls /new/dir; touch /rw/made && echo made")
	b.Spec.Root.Readonly = false
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.Spec.Mounts = append(b.Spec.Mounts,
		specs.Mount{Destination: "/new/file", Source: filepath.Join(source, "file"), Type: "bind", Options: []string{"bind", "ro"}},
		specs.Mount{Destination: "/new/dir", Source: source, Options: []string{"rbind", "rro", "rprivate"}},
		specs.Mount{Destination: "/rw", Source: source, Options: []string{"bind"}})
	want := "content\ntouch: /new/file: Read-only file system\ntouch: /new/dir/x: Read-only file system\nfile\nmade\n"
	if out, _ := l.run(b); out != want {
		t.Errorf("got  %q\nwant %q", out, want)
	}
}

// TestUser checks a user without privileges, its groups, ambient capabilities and ownership of its pipes.
func TestUser(t *testing.T) {
	l := newLab(t)
	b := l.bundle("id; echo $HOME; umask; grep -E 'Cap(Eff|Amb)' /proc/self/status; echo again >/dev/stdout")
	umask := uint32(0o027)
	b.Spec.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 6}, Umask: &umask}
	b.Spec.Process.Capabilities.Inheritable = []string{"CAP_NET_BIND_SERVICE"}
	b.Spec.Process.Capabilities.Ambient = []string{"CAP_NET_BIND_SERVICE"}
	want := "uid=1000(user) gid=1001 groups=1001,5,6\n/home/user\n0027\nCapEff:\t0000000000000400\nCapAmb:\t0000000000000400\nagain\n"
	out, _ := l.run(b)
	if got := strings.ReplaceAll(out, "groups=5,6,1001", "groups=1001,5,6"); got != want && strings.ReplaceAll(got, "groups=5,6", "groups=1001,5,6") != want {
		t.Errorf("got  %q\nwant %q", out, want)
	}
}

// TestUserNamespace runs as root of a user namespace.
func TestUserNamespace(t *testing.T) {
	l := newLab(t)
	b := l.bundle("id -u; cat /proc/self/uid_map; stat -c %F /dev/null; echo x >/dev/null && echo ok")
	if err := filepath.WalkDir(b.RootPath(), func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 100000, 100000))
	}); err != nil {
		t.Fatal(err)
	}
	for dir := b.RootPath(); dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && dir != "/tmp" && info.Mode().Perm()&0o005 != 0o005 {
			err = os.Chmod(dir, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	b.Spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	b.Spec.Linux.GIDMappings = b.Spec.Linux.UIDMappings
	out, code := l.run(b)
	want := []string{"0", "0", "100000", "65536", "character", "special", "file", "ok"}
	if got := strings.Fields(out); code != 0 || !slices.Equal(got, want) {
		t.Errorf("exit code %d, got %q, want %q", code, got, want)
	}
}

// TestJoinedNamespaces puts one container into namespaces of another.
func TestJoinedNamespaces(t *testing.T) {
	l := newLab(t)
	first := l.create("first", l.bundle("sleep 1000"))
	if err := first.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	pid := first.State().Pid
	b := l.bundle("ps; for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done")
	b.Spec.Linux.CgroupsPath += "-second"
	b.Spec.Hostname = ""
	files := map[specs.LinuxNamespaceType]string{"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
	for i, ns := range b.Spec.Linux.Namespaces {
		if file := files[ns.Type]; file != "" {
			b.Spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/%s", pid, file)
		}
	}
	out, _ := l.run(b)
	if !strings.Contains(out, "sleep 1000") {
		t.Errorf("the first container's program is not seen:\n%s", out)
	}
	for _, ns := range []string{"net", "ipc", "uts", "pid"} {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if err != nil || !strings.Contains(out, link) {
			t.Errorf("not in namespace %s: %v\n%s", link, err, out)
		}
	}
	if link, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)); strings.Contains(out, link) {
		t.Errorf("in the first container's mount namespace")
	}
}

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
	if out := readTerminal(t, terminal); out != "/dev/pts/0\n-onlcr\n" {
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

// TestOwnBinaryIsOutOfReach runs programs that name the process's own executable: none may be the runtime's.
func TestOwnBinaryIsOutOfReach(t *testing.T) {
	l := newLab(t)
	for _, args := range [][]string{{"/proc/self/exe", "-test.list", "TestOwnBinary"}, {"/bin/self"}} {
		b := l.bundle("")
		b.Spec.Process.Args = args
		output, input := l.pipe()
		c, err := l.runtime.Run(l.ctx, "test", b, CreateOptions{Stdin: devNull(t), Stdout: input, Stderr: input})
		input.Close()
		if err != nil {
			continue // refused is fine too
		}
		text, _ := io.ReadAll(output)
		l.remove(c)
		if strings.Contains(string(text), "TestOwnBinary") || len(text) > 0 {
			t.Errorf("%v ran something that answered %q", args, text)
		}
	}
}

// TestListTolerates checks that what can't be read is reported, skipped and left in place.
func TestListTolerates(t *testing.T) {
	l := newLab(t)
	l.create("good", l.bundle("sleep 1000"))
	bad := filepath.Join(l.runtime.Root(), "bad")
	for name, content := range map[string]string{"bad": "{", "other": `{"version":99,"id":"other"}`} {
		if err := os.MkdirAll(filepath.Join(l.runtime.Root(), name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(l.runtime.Root(), name, "state.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(l.runtime.Root(), "layers"), 0o700); err != nil {
		t.Fatal(err)
	}
	all, err := l.runtime.List()
	if len(all) != 1 || all[0].ID() != "good" {
		t.Errorf("listed %v", all)
	}
	if err == nil || !strings.Contains(err.Error(), "bad") || !strings.Contains(err.Error(), "version 99") || strings.Contains(err.Error(), "layers") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(bad, "state.json")); err != nil {
		t.Error(err)
	}
}

// TestPidReuse checks that a state whose pid is another process's now counts as stopped.
func TestPidReuse(t *testing.T) {
	l := newLab(t)
	c := l.create("one", l.bundle("sleep 1000"))
	pid := c.State().Pid
	if err := c.Save(func(s *State) { s.Pid = os.Getpid() }); err != nil {
		t.Fatal(err)
	}
	if got := c.Status(); got != specs.StateStopped {
		t.Errorf("status %s, want stopped", got)
	}
	if err := c.Kill(unix.SIGKILL, false); !errors.Is(err, ErrNotRunning) {
		t.Errorf("kill: %v", err)
	}
	if err := c.Save(func(s *State) { s.Pid = pid }); err != nil {
		t.Fatal(err)
	}
}
