package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/spec"
)

// rootlessUser is a user that no machine has.
const rootlessUser = 1_912_345

// userLab is a bundle, a home and a runtime directory of a user without privileges.
type userLab struct {
	*ociLab
	dir string
	zap string
}

// newUserLab makes what the user needs, in a directory that every user can reach.
func newUserLab(t *testing.T) *userLab {
	l := &userLab{ociLab: newOCILab(t), dir: t.TempDir()}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	l.zap = filepath.Join(l.dir, "zap")
	if err := os.WriteFile(l.zap, program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"home", "run"} {
		if err := os.Mkdir(filepath.Join(l.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, root := range []string{l.dir, l.bundle} {
		for dir := root; dir != "/"; dir = filepath.Dir(dir) {
			info, err := os.Stat(dir)
			if err == nil && info.Mode().Perm()&0o005 != 0o005 {
				err = os.Chmod(dir, info.Mode().Perm()|0o055)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if out, err := exec.Command("chown", "-Rh", fmt.Sprintf("%d:%[1]d", rootlessUser), root).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return l
}

// command is zap as the user would run it.
func (l *userLab) command(args ...string) *exec.Cmd {
	cmd := exec.Command(l.zap, args...)
	cmd.Dir = l.bundle
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + l.dir + "/home", "XDG_RUNTIME_DIR=" + l.dir + "/run", asZap + "=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: rootlessUser, Gid: rootlessUser}}
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// user runs zap as the user, and wants it to end well.
func (l *userLab) user(args ...string) string {
	l.t.Helper()
	out, err := l.command(args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("zap %q: %v: %s", args, err, out)
	}
	return string(out)
}

// change edits the bundle's config.json.
func (l *userLab) change(edit func(*specs.Spec)) {
	l.t.Helper()
	b, err := spec.Load(l.bundle)
	if err != nil {
		l.t.Fatal(err)
	}
	edit(b.Spec)
	data, err := json.Marshal(b.Spec)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.bundle, spec.ConfigName), data, 0o644); err != nil {
		l.t.Fatal(err)
	}
}

// script sets the program of the bundle.
func (l *userLab) script(s string) {
	l.t.Helper()
	l.change(func(c *specs.Spec) { c.Process.Terminal, c.Process.Args = false, []string{"sh", "-c", s} })
}

// TestRootless lives through the life of a container as a user without privileges: what `zap spec --rootless` writes, run, created,
// entered, listed, killed and removed, with hooks, an oom_score_adj that can't be lowered, and no cgroup.
func TestRootless(t *testing.T) {
	l := newUserLab(t)
	l.user("spec", "--rootless")
	l.script("id -u; cat /proc/self/uid_map; cat /proc/self/setgroups; ls /sys/class; echo x >/dev/null; touch /dev/shm/x && exit 3")
	l.change(func(s *specs.Spec) { score := -999; s.Process.OOMScoreAdj = &score })
	cmd := l.command("run", "one")
	out, _ := cmd.CombinedOutput()
	fields := strings.Fields(string(out))
	if cmd.ProcessState.ExitCode() != 3 || len(fields) < 6 || strings.Join(fields[:5], " ") != fmt.Sprintf("0 0 %d 1 deny", rootlessUser) {
		t.Errorf("run: %v, %q", cmd.ProcessState, out)
	}
	l.script("exec sleep 1000")
	l.change(func(s *specs.Spec) {
		s.Process.OOMScoreAdj = nil
		hook := func(script string) []specs.Hook {
			return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}}}
		}
		s.Hooks = &specs.Hooks{
			CreateRuntime: hook("id -u >" + l.dir + "/home/runtime"), CreateContainer: hook("test -e dev/null && id -u >" + l.dir + "/home/container"),
			StartContainer: hook("id -u >/dev/shm/start"),
		}
	})
	for _, args := range [][]string{{"create", "two"}, {"start", "two"}} {
		cmd := l.command(append([]string{"--log", l.dir + "/home/log"}, args...)...)
		if err := cmd.Run(); err != nil { // the container keeps the standard streams
			log, _ := os.ReadFile(l.dir + "/home/log")
			t.Fatalf("%q: %v: %s", args, err, log)
		}
	}
	for file, want := range map[string]string{"runtime": fmt.Sprintln(rootlessUser), "container": "0\n"} {
		if got, err := os.ReadFile(filepath.Join(l.dir, "home", file)); err != nil || string(got) != want {
			t.Errorf("%s hook: %q, %v, want %q", file, got, err, want)
		}
	}
	if out := l.user("exec", "two", "sh", "-c", "cat /dev/shm/start; cat /proc/1/comm; id -u; echo $$ >/dev/null"); out != "0\nsleep\n0\n" {
		t.Errorf("exec: %q", out)
	}
	if out := l.user("list", "-q"); out != "two\n" {
		t.Errorf("list: %q", out)
	}
	if out := l.user("state", "two"); !strings.Contains(out, `"status": "running"`) {
		t.Errorf("state: %q", out)
	}
	if _, err := os.Stat(filepath.Join(l.dir, "run/zap/two")); err != nil {
		t.Errorf("not in the user's runtime directory: %v", err)
	}
	l.user("kill", "two", "KILL")
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(l.user("state", "two"), "stopped") && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
	}
	l.user("delete", "two")
	if out := l.user("list", "-q"); out != "" {
		t.Errorf("list: %q", out)
	}
}

// TestRootlessTerminal gives a user's container a terminal.
func TestRootlessTerminal(t *testing.T) {
	l := newUserLab(t)
	l.user("spec", "--rootless")
	l.change(func(c *specs.Spec) { c.Process.Args = []string{"sh", "-c", "tty; stty size; echo hi >/dev/console"} })
	var out bytes.Buffer
	cmd := l.command("run", "tty")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(""), &out, &out
	if err := cmd.Run(); err != nil || !strings.Contains(out.String(), "/dev/pts/0") || !strings.Contains(out.String(), "hi") {
		t.Errorf("%v, %q", err, out.String())
	}
}

// TestRootlessRefusals checks what a user without privileges is told.
func TestRootlessRefusals(t *testing.T) {
	l := newUserLab(t)
	l.user("spec", "--rootless")
	l.script("true")
	for name, test := range map[string]struct {
		args []string
		edit func(*specs.Spec)
		want string
	}{
		"users": {[]string{"run", "x"}, func(s *specs.Spec) {
			s.Hostname, s.Linux.Namespaces, s.Linux.UIDMappings, s.Linux.GIDMappings = "", []specs.LinuxNamespace{{Type: specs.MountNamespace}}, nil, nil
		}, "rootless container requires user namespaces (config.json: linux.namespaces)"},
		"cgroup path": {[]string{"run", "x"}, func(s *specs.Spec) { s.Linux.CgroupsPath = "/somewhere" }, "(config.json: linux.cgroupsPath)"},
		"limits": {[]string{"run", "x"}, func(s *specs.Spec) {
			limit := int64(100)
			s.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
		}, "(config.json: linux.resources)"},
		"not rootless": {[]string{"--rootless", "false", "run", "x"}, func(*specs.Spec) {}, "permission denied"},
		"groups": {
			[]string{"run", "x"},
			func(s *specs.Spec) { s.Process.User.AdditionalGids = []uint32{5} },
			"(config.json: process.user.additionalGids); cannot set any additional groups in a rootless container",
		},
	} {
		before, err := os.ReadFile(filepath.Join(l.bundle, spec.ConfigName))
		if err != nil {
			t.Fatal(err)
		}
		l.change(test.edit)
		out, err := l.command(test.args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), test.want) {
			t.Errorf("%s: %v, %q, want %s", name, err, out, test.want)
		}
		if err := os.WriteFile(filepath.Join(l.bundle, spec.ConfigName), before, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRootlessRange maps a range of subordinate ids, which newuidmap(1) allows to those whom they belong to. The files that say so are
// mounted for this test alone.
func TestRootlessRange(t *testing.T) {
	if _, err := exec.LookPath("newuidmap"); err != nil {
		t.Skipf("needs Debian's uidmap (make deps): %v", err)
	}
	l := newUserLab(t)
	l.user("spec", "--rootless")
	l.script("cat /proc/self/uid_map /proc/self/gid_map; cat /proc/self/setgroups; id -G; id -u")
	l.change(func(s *specs.Spec) {
		s.Linux.UIDMappings = []specs.LinuxIDMapping{
			{ContainerID: 0, HostID: rootlessUser, Size: 1}, {ContainerID: 1, HostID: 2_000_000, Size: 1000},
		}
		s.Linux.GIDMappings = s.Linux.UIDMappings
		s.Process.User = specs.User{UID: 7, GID: 7, AdditionalGids: []uint32{9}}
	})
	files := map[string]string{
		"/etc/subuid": fmt.Sprintf("%d:2000000:1000\n", rootlessUser), "/etc/subgid": fmt.Sprintf("%d:2000000:1000\n", rootlessUser),
		"/etc/passwd": fmt.Sprintf("root:x:0:0::/root:/bin/sh\nsomebody:x:%d:%[1]d::/:/bin/sh\n", rootlessUser),
	}
	script := "set -e; "
	for target, content := range files {
		source := filepath.Join(l.dir, filepath.Base(target))
		if err := os.WriteFile(source, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(target); err != nil {
			t.Skipf("needs a file to mount on: %v", err)
		}
		script += "mount --bind " + source + " " + target + "; "
	}
	run := l.command("run", "range")
	script += fmt.Sprintf("cd %s; exec setpriv --reuid %d --regid %[2]d --clear-groups %s run range", l.bundle, rootlessUser, l.zap)
	cmd := exec.Command("unshare", "-m", "sh", "-c", script)
	cmd.Env, cmd.WaitDelay = run.Env, run.WaitDelay
	cmd.Stdin = io.NopCloser(strings.NewReader(""))
	out, err := cmd.CombinedOutput()
	want := fmt.Sprintf("0 %d 1 1 2000000 1000 0 %[1]d 1 1 2000000 1000 allow 7 9 7", rootlessUser)
	if got := strings.Join(strings.Fields(string(out)), " "); err != nil || got != want {
		t.Errorf("%v, %q, want %q", err, got, want)
	}
}
