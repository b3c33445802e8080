package runtime

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestCVE20195736 has a container's process look for the runtime's binary in /proc/PID/exe of everything that is started into the container,
// to write to it; and containers and execs whose program is /proc/self/exe, a script with that interpreter, or a link to it.
func TestCVE20195736(t *testing.T) {
	l := newLab(t)
	before := sumOfSelf(t)
	b := l.inside("exe")
	b.Spec.Root.Readonly = false
	output, input := l.pipe()
	c, err := l.runtime.Create(l.ctx, "thief", b, CreateOptions{Stdin: devNull(t), Stdout: input, Stderr: input})
	input.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.remove(c) })
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/self/exe", filepath.Join(b.RootPath(), "bin/link")); err != nil {
		t.Fatal(err)
	}
	programs := [][]string{{"true"}, {"/proc/self/exe"}, {"/bin/self"}, {"/bin/link"}, {"/proc/thread-self/exe"}, {"sh", "-c", "/proc/$PPID/exe; true"}}
	times := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end) || times < 20; times++ {
		p := *b.Spec.Process
		p.Args, p.Env = programs[times%len(programs)], []string{"PATH=/bin"}
		null := devNull(t)
		process, err := c.Exec(l.ctx, ExecOptions{Process: &p, Stdin: null, Stdout: null, Stderr: null})
		if err != nil {
			continue // the kernel refuses a program that is its own interpreter
		}
		if _, err := process.Wait(l.ctx); err != nil {
			t.Fatal(err)
		}
	}
	file(t, filepath.Join(b.RootPath(), "stop"), "")
	_ = output.SetReadDeadline(time.Now().Add(20 * time.Second))
	text, err := io.ReadAll(output)
	if err != nil || string(text) != "ready\ndone\n" {
		t.Errorf("after %d execs the thief says %q, %v", times, text, err)
	}
	for _, args := range programs[1:5] {
		r := l.bundle("")
		if err := os.Symlink("/proc/self/exe", filepath.Join(r.RootPath(), "bin/link")); err != nil {
			t.Fatal(err)
		}
		r.Spec.Process.Args = args
		if out, err := l.try(r, nil); strings.Contains(out, "PASS") || strings.Contains(out, "testing:") {
			t.Errorf("%q ran this binary: %q, %v", args, out, err)
		}
	}
	if sumOfSelf(t) != before {
		t.Fatal("this binary was changed")
	}
}

func sumOfSelf(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// TestCVE20195736OfTheParent has a container that shares the host's processes look at the runtime that made it.
func TestCVE20195736OfTheParent(t *testing.T) {
	l := newLab(t)
	b := l.bundle(fmt.Sprintf("for f in exe root cwd fd/1 environ mem; do cat /proc/%d/$f >/dev/null 2>&1 && echo $f; done; echo end", os.Getpid()))
	for i, ns := range b.Spec.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace {
			b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces[:i:i], b.Spec.Linux.Namespaces[i+1:]...)
			break
		}
	}
	l.wantOutput(b, "end\n")
}

// TestCVE202421626 has working directories that are descriptors: one of the host's that the runtime forgot would be a way out.
func TestCVE202421626(t *testing.T) {
	l := newLab(t)
	c := l.create("one", l.bundle("sleep 1000"))
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	host, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	for fd := range 40 {
		for _, dir := range []string{"/proc/self/fd/%d", "/proc/self/fd/%d/../../..", "/link%d", "/proc/thread-self/fd/%d", "/proc/1/fd/%d"} {
			if fd > 12 && dir != "/proc/self/fd/%d" {
				continue
			}
			cwd := fmt.Sprintf(dir, fd)
			p := *c.State().Bundle.Spec.Process
			p.Args, p.Cwd = []string{"pwd"}, cwd
			null := devNull(t)
			if process, err := c.Exec(l.ctx, ExecOptions{Process: &p, Stdin: null, Stdout: null, Stderr: null}); err == nil {
				_, _ = process.Wait(l.ctx)
				t.Errorf("exec with working directory %s was run", cwd)
			} else if !strings.Contains(err.Error(), "working directory "+cwd) {
				t.Error(err)
			}
			if dir != "/proc/self/fd/%d" && fd != 7 {
				continue
			}
			b := l.bundle("pwd; ls ..")
			if err := os.Symlink(fmt.Sprintf("/proc/self/fd/%d", fd), filepath.Join(b.RootPath(), fmt.Sprintf("link%d", fd))); err != nil {
				t.Fatal(err)
			}
			b.Spec.Process.Cwd = cwd
			if out, err := l.try(b, nil); err == nil {
				t.Errorf("run with working directory %s was run: %q", cwd, out)
			} else if !strings.Contains(err.Error(), "(config.json: process.cwd)") {
				t.Error(err)
			}
		}
	}
	t.Run("a directory that is passed", func(t *testing.T) { passDirectory(t, host) })
}

// passDirectory gives a container a directory of the host on purpose: as its working directory it is refused nevertheless.
func passDirectory(t *testing.T, host *os.File) {
	l := newLab(t)
	pass, err := unix.FcntlInt(host.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pass)
	b := l.bundle("pwd; ls")
	b.Spec.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", pass)
	null := devNull(t)
	_, err = l.runtime.Create(l.ctx, "passed", b, CreateOptions{Stdin: null, Stdout: null, Stderr: null, PreserveFDs: pass - 2})
	if err == nil || !strings.Contains(err.Error(), "working directory "+b.Spec.Process.Cwd+": too many levels of symbolic links (config.json: process.cwd)") {
		t.Errorf("create: %v", err)
	}
}

// TestCVE202531133 has something else at /dev/null when files are masked with it: a link to what is to be hidden, or a file of the attacker's.
func TestCVE202531133(t *testing.T) {
	const script = "stat -c '%F %t:%T' /proc/keys /proc/timer_list; cat /proc/keys; (: >/proc/sys/kernel/printk) 2>&- || echo kept"
	const want = "character special file 1:3\ncharacter special file 1:3\nkept\n"
	t.Run("in the image", func(t *testing.T) {
		l := newLab(t)
		b := l.bundle(script)
		b.Spec.Mounts = append(b.Spec.Mounts[:1:1], b.Spec.Mounts[5:]...) // no /dev
		b.Spec.Root.Readonly = false
		if err := errors.Join(os.Mkdir(filepath.Join(b.RootPath(), "dev"), 0o755),
			os.Symlink("/proc/sys/kernel/core_pattern", filepath.Join(b.RootPath(), "dev/null"))); err != nil {
			t.Fatal(err)
		}
		l.wantOutput(b, want)
	})
	t.Run("mounted over", func(t *testing.T) {
		l := newLab(t)
		b := l.bundle(script)
		fake := filepath.Join(t.TempDir(), "null")
		file(t, fake, "of the attacker\n")
		b.Spec.Mounts = append(b.Spec.Mounts, bindMount(fake, "/dev/null"))
		l.wantOutput(b, want)
	})
	t.Run("race", func(t *testing.T) {
		l := newLab(t)
		b := l.bundle(script)
		dev := t.TempDir()
		if err := errors.Join(unix.Mknod(filepath.Join(dev, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
			os.Symlink("/proc/sys/kernel/core_pattern", filepath.Join(dev, "link"))); err != nil {
			t.Fatal(err)
		}
		for i, m := range b.Spec.Mounts {
			if m.Destination == "/dev" {
				b.Spec.Mounts[i] = bindMount(dev, "/dev")
			}
		}
		l.race(b, func() func() { return exchange(t, filepath.Join(dev, "null"), filepath.Join(dev, "link")) }, func(output string, err error) {
			if err != nil || output != want {
				t.Errorf("got %q, %v", output, err)
			}
		})
	})
}

// TestCVE202552565 exchanges /dev/console, while the terminal is mounted there, with a link to a file that is to stay read-only.
func TestCVE202552565(t *testing.T) {
	l := newLab(t)
	b := l.bundle(`grep ' /proc/sys ' /proc/self/mountinfo >/dev/kept; (: >/proc/sys/kernel/printk) 2>/dev/null || echo no >>/dev/kept`)
	b.Spec.Process.Terminal = true
	dev := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dev, "pts"), 0o755), os.Symlink("/proc/sys/kernel/printk", filepath.Join(dev, "link"))); err != nil {
		t.Fatal(err)
	}
	file(t, filepath.Join(dev, "console"), "")
	for i, m := range b.Spec.Mounts {
		if m.Destination == "/dev" {
			b.Spec.Mounts[i] = bindMount(dev, "/dev")
		}
	}
	b.Spec.Mounts = append(b.Spec.Mounts[:3:3], b.Spec.Mounts[5:]...) // no directories to make
	l.race(b, func() func() { return exchange(t, filepath.Join(dev, "console"), filepath.Join(dev, "link")) }, func(_ string, err error) {
		if err != nil {
			if !strings.Contains(err.Error(), "mount terminal on /dev/console: too many levels of symbolic links (config.json: process.terminal)") {
				t.Error(err)
			}
			return
		}
		data, err := os.ReadFile(filepath.Join(dev, "kept"))
		kept := string(data)
		if err != nil || strings.Count(kept, "\n") != 2 || !strings.Contains(kept, " /sys /proc/sys ro,") || !strings.HasSuffix(kept, "\nno\n") {
			t.Errorf("%v\n%s", err, kept)
		}
		_ = os.Remove(filepath.Join(dev, "kept"))
	})
	for _, name := range []string{"console", "link"} { // either may be the link now
		if info, err := os.Lstat(filepath.Join(dev, name)); err != nil || info.Mode().IsRegular() && info.Size() > 0 {
			t.Errorf("%s was written to: %v", name, err)
		}
	}
}

// TestCVE202552881 has files of the attacker's where the runtime writes limits and sysctls: in a mount namespace that a container joins, and
// in a container that another process is started into.
func TestCVE202552881(t *testing.T) {
	l := newLab(t)
	fake := t.TempDir()
	names := []string{"sys/net/ipv4/ip_forward", "self/oom_score_adj", "self/attr/exec", "self/timens_offsets"}
	for _, name := range names {
		file(t, filepath.Join(fake, name), "fake")
	}
	untouched := func() {
		t.Helper()
		for _, name := range names {
			if data, err := os.ReadFile(filepath.Join(fake, name)); err != nil || string(data) != "fake" {
				t.Errorf("%s was written to: %q, %v", name, data, err)
			}
		}
	}
	score := 500
	t.Run("joined", func(t *testing.T) {
		holder := holdMounts(t, fake)
		b := l.bundle("cat /proc/sys/net/ipv4/ip_forward /proc/self/oom_score_adj; grep boottime /proc/self/timens_offsets")
		for i, ns := range b.Spec.Linux.Namespaces {
			if ns.Type == specs.MountNamespace {
				b.Spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/mnt", holder)
			}
		}
		b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		b.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1000}}
		b.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
		b.Spec.Process.OOMScoreAdj = &score
		out, code := l.run(b)
		if got := strings.Join(strings.Fields(out), " "); code != 0 || got != "1 500 boottime 1000 0" {
			t.Errorf("exit code %d, output %q", code, out)
		}
		untouched()
	})
	t.Run("exec", func(t *testing.T) {
		b := l.bundle("mount --bind /fake /proc && sleep 1000")
		b.Spec.Mounts = append(b.Spec.Mounts, bindMount(fake, "/fake"))
		caps := append([]string{"CAP_SYS_ADMIN"}, b.Spec.Process.Capabilities.Bounding...)
		b.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
		if err := os.Mkdir(filepath.Join(b.RootPath(), "fake"), 0o755); err != nil {
			t.Fatal(err)
		}
		c := l.create("fake", b)
		if err := c.Start(l.ctx); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/proc/self/attr/exec", c.State().Pid)); err == nil || time.Now().After(end) {
				if data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/root/proc/self/oom_score_adj", c.State().Pid)); string(data) == "fake" {
					break
				}
			}
			if time.Now().After(end) {
				t.Fatal("the container has no files of its own at /proc")
			}
		}
		p := *b.Spec.Process
		p.Args, p.OOMScoreAdj = []string{"sleep", "1000"}, &score
		null := devNull(t)
		process, err := c.Exec(l.ctx, ExecOptions{Process: &p, Stdin: null, Stdout: null, Stderr: null})
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", process.Pid))
		if err != nil || string(data) != "500\n" {
			t.Errorf("oom_score_adj %q, %v", data, err)
		}
		_ = unix.Kill(process.Pid, unix.SIGKILL)
		_, _ = process.Wait(l.ctx)
		untouched()
	})
}

// holdMounts starts a process with a mount namespace of its own, in which a directory is in place of /proc.
func holdMounts(t *testing.T, fake string) (pid int) {
	t.Helper()
	ready, done, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	holder := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", "mount --bind "+fake+" /proc && echo ready && exec cat")
	keep, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	holder.Stdout = done
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	done.Close()
	t.Cleanup(func() { keep.Close(); _ = holder.Wait() })
	_ = ready.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, _ := ready.Read(make([]byte, 16)); n == 0 {
		t.Fatal("no mount namespace")
	}
	return holder.Process.Pid
}
