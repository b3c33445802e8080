package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/runtime/cgroup"
)

// delegatedLab is a user's, with a part of the v2 tree that was handed over to the user, as systemd does for sessions.
type delegatedLab struct {
	*userLab
	path    string // of the part, from the mount of the tree on
	session *os.File
}

func newDelegatedLab(t *testing.T) *delegatedLab {
	if cgroup.Mode() != "v2" {
		t.Skip("needs a host with nothing but cgroup v2 (make test-guest has one)")
	}
	l := &delegatedLab{userLab: newUserLab(t), path: fmt.Sprintf("/zap-delegated-%d", os.Getpid())}
	for _, path := range []string{l.path, l.path + "/session"} {
		cg, err := cgroup.Create(path, nil)
		if err == nil {
			t.Cleanup(func() {
				if err := cg.Delete(t.Context()); err != nil {
					t.Error(err)
				}
			})
			err = cg.Delegate(rootlessUser)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	session, err := os.Open("/sys/fs/cgroup" + l.path + "/session")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { session.Close() })
	l.session = session
	return l
}

// command is zap as the user would run it in a session.
func (l *delegatedLab) command(args ...string) *exec.Cmd {
	cmd := l.userLab.command(args...)
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(l.session.Fd())
	return cmd
}

// user runs zap as the user in the session, and wants it to end well.
func (l *delegatedLab) user(args ...string) string {
	l.t.Helper()
	file := filepath.Join(l.t.TempDir(), "out") // no pipe, which the container would keep
	out, err := os.Create(file)
	if err != nil {
		l.t.Fatal(err)
	}
	defer out.Close()
	cmd := l.command(args...)
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	text, _ := os.ReadFile(file)
	if err != nil {
		l.t.Fatalf("zap %q: %v: %s", args, err, text)
	}
	return string(text)
}

// TestRootlessDelegated has a user without privileges limit a container: below a part of the v2 tree that is the user's, the kernel holds it
// to its limits, and the user changes them, pauses it and removes it.
func TestRootlessDelegated(t *testing.T) {
	l := newDelegatedLab(t)
	l.user("spec", "--rootless")
	l.script("exec sleep 1000")
	l.change(func(s *specs.Spec) {
		s.Linux.CgroupsPath = l.path + "/pod"
		s.Linux.Resources = &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: new(int64(32 * mib))}, Pids: &specs.LinuxPids{Limit: new(int64(6))},
			CPU:     &specs.LinuxCPU{Quota: new(int64(50000)), Period: new(uint64(100000))},
			Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}},
		}
	})
	l.user("run", "--detach", "one")
	dir := "/sys/fs/cgroup" + l.path + "/pod/"
	reads := func(want map[string]string) {
		t.Helper()
		for file, value := range want {
			if got, err := os.ReadFile(dir + file); err != nil || strings.TrimSpace(string(got)) != value {
				t.Errorf("%s is %q, %v, want %q", file, got, err, value)
			}
		}
	}
	reads(map[string]string{"memory.max": "33554432", "pids.max": "6", "cpu.max": "50000 100000"})
	if info, err := os.Stat(dir); err != nil || info.Sys().(*syscall.Stat_t).Uid != rootlessUser {
		t.Errorf("the group is %v, %v", info, err)
	}
	const forks = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done 2>&1; echo started"
	if out, _ := l.command("exec", "one", "sh", "-c", forks).CombinedOutput(); !strings.Contains(string(out), "can't fork: Resource temporarily unavailable") {
		t.Errorf("more processes than the limit: %q", out)
	}
	l.user("update", "--pids-limit", "20", "--memory", "64M", "one")
	reads(map[string]string{"memory.max": "67108864", "pids.max": "20"})
	l.user("pause", "one")
	reads(map[string]string{"cgroup.freeze": "1"})
	l.user("resume", "one")
	if out := l.user("events", "--stats", "one"); !strings.Contains(out, `"limit":67108864`) {
		t.Errorf("events: %s", out)
	}
	l.user("delete", "--force", "one")
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		_, err := os.Stat(dir)
		if os.IsNotExist(err) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the group is left: %v", err)
		}
	}
}

// TestRootlessOutOfMemory has the kernel end what takes more memory than a user allowed it.
func TestRootlessOutOfMemory(t *testing.T) {
	l := newDelegatedLab(t)
	l.user("spec", "--rootless")
	l.script("a=x; while :; do a=$a$a$a$a; done")
	l.change(func(s *specs.Spec) {
		s.Linux.CgroupsPath = l.path + "/pod"
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(16 * mib))}}
	})
	out, err := l.command("run", "one").CombinedOutput()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 128+9 {
		t.Errorf("run: %v, %q, want to be killed", err, out)
	}
}
