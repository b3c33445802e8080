package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestCheckpointProbes answers as podman's probes of the runtime expect, and takes the flags that callers of runc and crun pass.
func TestCheckpointProbes(t *testing.T) {
	l := newOCILab(t)
	if _, _, code := l.zap("checkpoint", "--help"); code != 0 {
		t.Errorf("checkpoint --help ends with %d", code)
	}
	if _, stderr, code := l.zap("restore", "--lsm-mount-context"); code == 0 || !strings.Contains(stderr, "flag needs an argument") {
		t.Errorf("restore --lsm-mount-context: code %d, %q", code, stderr)
	}
	for _, args := range [][]string{
		{
			"checkpoint", "--image-path", "i", "--work-path", "w", "--leave-running", "--tcp-established", "--tcp-skip-in-flight", "--ext-unix-sk",
			"--shell-job", "--file-locks", "--link-remap", "--auto-dedup", "--empty-ns", "network", "--manage-cgroups-mode", "ignore", "nobody",
		},
		{
			"restore", "--image-path", "i", "--work-path", "w", "--tcp-established", "--tcp-close", "--ext-unix-sk", "--shell-job", "--file-locks", "--detach",
			"--no-pivot", "-no-subreaper", "--no-new-keyring", "--preserve-fds", "0", "--parent-path", "../p", "--lsm-profile", "", "--bundle", l.bundle, "nobody",
		},
	} {
		if _, stderr, code := l.zap(args...); code == 0 || strings.Contains(stderr, "flag") {
			t.Errorf("%s: code %d, %q", args[0], code, stderr)
		}
	}
	for _, args := range [][]string{{"checkpoint", "--empty-ns", "pid", "nobody"}, {"checkpoint", "nobody"}} {
		if _, stderr, code := l.zap(args...); code == 0 {
			t.Errorf("%v: code %d, %q", args, code, stderr)
		}
	}
}

// TestCheckpointVerb takes a container through checkpoint and restore in the foreground: its exit code arrives, and nothing is left.
func TestCheckpointVerb(t *testing.T) {
	l := newOCILab(t)
	data := t.TempDir()
	l.spec.Mounts = append(l.spec.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: data, Options: []string{"bind"}})
	l.program("while [ ! -e /data/end ]; do sleep 0.05; done; exit 7")
	images := filepath.Join(t.TempDir(), "images")
	if err := l.command("create", "one").Run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.command("delete", "--force", "one").Run() })
	if _, stderr, code := l.zap("checkpoint", "--image-path", images, "one"); code == 0 || !strings.Contains(stderr, "in created state") {
		t.Errorf("checkpoint of a created container: code %d, %q", code, stderr)
	}
	l.must("start", "one")
	l.must("checkpoint", "--image-path", images, "one")
	if err := os.WriteFile(filepath.Join(data, "end"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	if _, stderr, code := l.zap("restore", "--bundle", l.bundle, "--image-path", images, "--pid-file", pidFile, "one"); code != 7 {
		t.Errorf("restore in the foreground: code %d, %q", code, stderr)
	}
	if text, err := os.ReadFile(pidFile); err != nil || len(text) == 0 {
		t.Errorf("the pid file has %q, %v", text, err)
	}
	if _, stderr, _ := l.zap("state", "one"); !strings.Contains(stderr, "does not exist") {
		t.Errorf("after its end: %q", stderr)
	}
}

// TestCheckpointNamesBlockers traces a container's program, as a debugger does: that is said before CRIU is asked.
func TestCheckpointNamesBlockers(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	l.start("one")
	var state specs.State
	if err := json.Unmarshal([]byte(l.must("state", "one")), &state); err != nil {
		t.Fatal(err)
	}
	pid := state.Pid
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = unix.PtraceInterrupt(pid)
		var status unix.WaitStatus
		for {
			if _, err := unix.Wait4(pid, &status, unix.WALL, nil); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		_ = unix.PtraceDetach(pid)
	}()
	images := filepath.Join(t.TempDir(), "images")
	if _, stderr, code := l.zap("checkpoint", "--image-path", images, "one"); code == 0 || !strings.Contains(stderr, "traced") {
		t.Errorf("code %d, %q", code, stderr)
	}
	if _, err := os.Stat(images); err == nil {
		t.Error("CRIU was asked")
	}
}

// TestCheckpointNamesQueues: a message queue is named, and CRIU is not asked.
func TestCheckpointNamesQueues(t *testing.T) {
	l := newOCILab(t)
	l.program("busybox touch /dev/mqueue/orders; sleep 1000")
	l.start("one")
	images := filepath.Join(t.TempDir(), "images")
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if l.must("exec", "one", "ls", "/dev/mqueue") != "" {
			break
		}
	}
	if _, stderr, code := l.zap("checkpoint", "--image-path", images, "one"); code != 1 || !strings.Contains(stderr, "message queue /orders") {
		t.Errorf("code %d, %q", code, stderr)
	}
	if _, err := os.Stat(images); err == nil {
		t.Error("CRIU was asked")
	}
	l.must("exec", "one", "busybox", "rm", "/dev/mqueue/orders")
	l.must("checkpoint", "--image-path", images, "one")
}
