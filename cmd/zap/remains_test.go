package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime/cgroup"
)

// stuckCreation starts a creation that stands still before it writes a state: its log is a pipe that is full. It returns when the cgroup
// has the container's first process in it.
func stuckCreation(t *testing.T, l *ociLab) *exec.Cmd {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	if err := unix.Mkfifo(log, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(log, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	for {
		if _, err := unix.Write(fd, make([]byte, 4096)); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	cmd := l.command("--debug", "--log", log, "create", "one")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if cg, err := cgroup.Load(l.spec.Linux.CgroupsPath); err == nil {
			if pids, err := cg.Procs(); err == nil && len(pids) > 0 && asleep(pids[0]) {
				return cmd // the process has come as far as it does by itself
			}
		}
		if time.Now().After(end) {
			t.Fatal("the creation has made no process")
		}
	}
}

// asleep says whether a process waits, and for longer than a moment.
func asleep(pid int) bool {
	for range 10 {
		if state, err := pod.ProcessState(pid); err != nil || state != 'S' {
			return false
		}
		time.Sleep(5 * time.Millisecond)
	}
	return true
}

// TestForceDeletesCgroup kills a creation that has made its cgroup and has not written a state: delete --force removes both the directory and
// the cgroup.
func TestForceDeletesCgroup(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	cmd := stuckCreation(t, l)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	dir := filepath.Join(l.root, "one")
	if _, err := os.Stat(filepath.Join(dir, "state.json")); err == nil {
		t.Fatal("there is a state")
	}
	l.must("delete", "--force", "one")
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory: %v", err)
	}
	if cg, err := cgroup.Load(l.spec.Linux.CgroupsPath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cgroup is there still: %v, %v", cg.Paths(), err)
		cg.Delete(t.Context())
	}
	l.must("delete", "--force", "one")
}

// TestForceDeletesNoOthersCgroup has another container run in the cgroup that a killed creation has noted.
func TestForceDeletesNoOthersCgroup(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	dir := filepath.Join(l.root, "one")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lock"), []byte(l.spec.Linux.CgroupsPath+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.start("two")
	_, errs, code := l.zap("delete", "--force", "one")
	if code != 0 || !strings.Contains(errs, "in use") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory: %v", err)
	}
	if out := l.must("state", "two"); !strings.Contains(out, `"running"`) {
		t.Errorf("the other container: %s", out)
	}
}
