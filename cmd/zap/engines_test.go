package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/criu"
)

// What breaks when a runtime does it in another way than the engines expect. Their own calls run in e2e/engines; here is what those of
// Debian don't do, and what none of them shows when it goes wrong.

// echoing is a program with a connection to itself over loopback: the numbers that it writes to /data/out went through it.
const echoing = `busybox nc -l -p 4000 -e cat &
	until busybox grep -q ':0FA0 .*:0000 0A' /proc/net/tcp6; do sleep 0.01; done
	i=0; while sleep 0.02; do i=$((i+1)); echo $i; done | busybox nc 127.0.0.1 4000 > /data/out
	sleep 1000`

// newEcho starts a container of echoing and returns the file that it writes to.
func (l *ociLab) newEcho(id string) (out string) {
	l.t.Helper()
	if _, err := criu.Find(l.t.Context(), ""); err != nil {
		l.t.Skip(err)
	}
	data := l.t.TempDir()
	l.spec.Mounts = append(l.spec.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: data, Options: []string{"bind"}})
	l.program(echoing)
	l.start(id)
	out = filepath.Join(data, "out")
	l.wantMore(out)
	return out
}

// wantMore waits until a file grows.
func (l *ociLab) wantMore(file string) {
	l.t.Helper()
	before, _ := os.ReadFile(file)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if now, err := os.ReadFile(file); err == nil && len(now) > len(before) {
			return
		}
	}
	l.t.Fatalf("%s does not grow", file)
}

// TestLoopbackIsUp: where no engine prepares a network, as below ctr and buildkit, programs reach themselves by 127.0.0.1 all the same.
func TestLoopbackIsUp(t *testing.T) {
	l := newOCILab(t)
	l.program("busybox ip address show lo")
	if out := l.must("run", "one"); !strings.Contains(out, "<LOOPBACK,UP,LOWER_UP>") || !strings.Contains(out, "inet 127.0.0.1/8") {
		t.Errorf("the link is %s", out)
	}
}

// TestRestoreWithoutTCPFlag: containerd's shim has no flag for connections when it restores. What the images have says it.
func TestRestoreWithoutTCPFlag(t *testing.T) {
	l := newOCILab(t)
	out := l.newEcho("one")
	images := filepath.Join(t.TempDir(), "images")
	l.must("checkpoint", "--tcp-established", "--image-path", images, "one")
	l.detached("restore", "--detach", "-no-subreaper", "--image-path", images, "--bundle", l.bundle, "one")
	l.wantMore(out)
}

// detached runs a command that leaves a container behind, without streams of ours.
func (l *ociLab) detached(args ...string) {
	l.t.Helper()
	errs, err := os.Create(filepath.Join(l.t.TempDir(), "errors"))
	if err != nil {
		l.t.Fatal(err)
	}
	defer errs.Close()
	cmd := l.command(args...)
	cmd.Stderr = errs
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(errs.Name())
		l.t.Fatalf("zap %v: %v: %s", args, err, text)
	}
}

// TestRestoreWithFlagsOfOthers restores with flags that podman and containerd pass and runc does not have. The connections are closed,
// as --tcp-close wants.
func TestRestoreWithFlagsOfOthers(t *testing.T) {
	l := newOCILab(t)
	l.newEcho("one")
	connections := func() string {
		out, _, _ := l.zap("exec", "one", "busybox", "grep", "-c", ":0FA0 01 ", "/proc/net/tcp")
		return strings.TrimSpace(out)
	}
	if n := connections(); n != "1" {
		t.Fatalf("the container has %q connections", n)
	}
	images := filepath.Join(t.TempDir(), "images")
	l.must("checkpoint", "--tcp-established", "--file-locks", "--image-path", images, "one")
	l.detached("restore", "--bundle", l.bundle, "--pid-file", filepath.Join(t.TempDir(), "pid"), "--no-pivot", "--no-new-keyring", "--detach",
		"--image-path", images, "--work-path", t.TempDir(), "--tcp-close", "--tcp-established", "--file-locks", "--preserve-fds", "0",
		"--parent-path", "../none", "--lsm-profile=", "--lsm-mount-context=", "one")
	if n := connections(); n != "0" {
		t.Errorf("the restored container has %q connections", n)
	}
}

// TestCheckpointWithoutTCPFlag: Kubernetes' checkpoints leave containers running and have no flag for connections. A container that has
// some goes on with them, and the reason is told.
func TestCheckpointWithoutTCPFlag(t *testing.T) {
	l := newOCILab(t)
	out := l.newEcho("one")
	images, work := filepath.Join(t.TempDir(), "images"), filepath.Join(t.TempDir(), "work")
	_, errs, code := l.zap("checkpoint", "--leave-running", "--file-locks", "--image-path", images, "--work-path", work, "one")
	if code != 1 || !strings.Contains(errs, "--tcp-established") {
		t.Errorf("exit code %d, %q", code, errs)
	}
	l.wantMore(out)
	if text, err := os.ReadFile(filepath.Join(work, "dump.log")); err != nil || len(text) == 0 {
		t.Errorf("CRIU's log, of which the shim keeps a copy: %v", err)
	}
}

// TestCheckpointOfPaused saves a container as CRI-O does: it pauses it before, wants it to stay so, and takes a checkpoint without an
// inventory for a failed one.
func TestCheckpointOfPaused(t *testing.T) {
	l := newOCILab(t)
	if _, err := criu.Find(t.Context(), ""); err != nil {
		t.Skip(err)
	}
	l.program("sleep 1000")
	l.start("one")
	l.must("pause", "one")
	images, work := filepath.Join(t.TempDir(), "images"), filepath.Join(t.TempDir(), "work")
	l.must("checkpoint", "--file-locks", "--image-path", images, "--work-path", work, "--leave-running", "one")
	if state := l.must("state", "one"); !strings.Contains(state, `"paused"`) {
		t.Errorf("after the checkpoint: %s", state)
	}
	wantFiles(t, images, "inventory.img", "pstree.img")
	wantFiles(t, work, "dump.log", "stats-dump")
	l.must("resume", "one")
	l.must("delete", "--force", "one")
	l.detached("restore", "--detach", "--bundle", l.bundle, "--image-path", images, "--work-path", work, "one")
	wantFiles(t, work, "restore.log", "stats-restore")
}

// wantFiles wants files in a directory that have something in them.
func wantFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTextsForEngines: containerd, CRI-O and podman tell failures apart by words on standard error, and in the log.
func TestTextsForEngines(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	l.start("stopped")
	l.must("kill", "stopped", "KILL")
	for end := time.Now().Add(10 * time.Second); !strings.Contains(l.must("state", "stopped"), `"stopped"`) && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	l.spec.Linux.CgroupsPath += "-two"
	l.program("sleep 1000")
	l.start("running")
	if err := os.WriteFile(filepath.Join(l.bundle, "rootfs/file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want string }{
		{"state none", "does not exist"},
		{"kill none KILL", "does not exist"},
		{"delete none", "does not exist"},
		{"start none", "does not exist"},
		{"kill stopped 15", "container not running"},
		{"kill stopped SIGKILL", "container not running"},
		{"exec stopped true", "container not running"},
		{"pause stopped", "container not running"},
		{"update --memory 100000000 stopped", "container not running"},
		{"exec running nothing", "executable file not found"},
		{"exec running /nothing", "no such file or directory"},
		{"exec running /file", "permission denied"},
		{"exec --cwd /nothing running true", "no such file or directory"},
		{"create running", "already exists"},
	} {
		log := filepath.Join(t.TempDir(), "log")
		args := append([]string{"--log", log, "--log-format", "json"}, strings.Fields(c.args)...)
		_, errs, code := l.zap(args...)
		text, _ := os.ReadFile(log)
		if code == 0 || !strings.Contains(errs, c.want) || !strings.Contains(string(text), `"level":"error","msg":"`) || !strings.Contains(string(text), c.want) {
			t.Errorf("%s: exit code %d, %q, log %q; want %q", c.args, code, errs, text, c.want)
		}
	}
}

// TestPoorEnvironment: engines pass PATH and XDG_RUNTIME_DIR, and the first may lead nowhere.
func TestPoorEnvironment(t *testing.T) {
	l := newOCILab(t)
	if _, err := criu.Find(t.Context(), ""); err != nil {
		t.Skip(err)
	}
	l.program("sleep 1000")
	images := filepath.Join(t.TempDir(), "images")
	t.Cleanup(func() { _ = l.command("delete", "--force", "one").Run() })
	for _, environment := range [][]string{{"PATH=/none", "XDG_RUNTIME_DIR=" + t.TempDir()}, nil} {
		for _, line := range []string{
			"create one", "start one", "exec one true", "state one", "ps --format json one", "pause one", "resume one", "events --stats one",
			"checkpoint --image-path " + images + " one", "restore --detach --image-path " + images + " one", "kill one KILL", "delete --force one",
		} {
			cmd := l.command(strings.Fields(line)...)
			cmd.Env = append([]string{asZap + "=1"}, environment...)
			errs, err := os.Create(filepath.Join(t.TempDir(), "errors"))
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stderr = errs
			err = cmd.Run()
			errs.Close()
			if err != nil {
				text, _ := os.ReadFile(errs.Name())
				t.Fatal(fmt.Errorf("zap %s with %q: %w: %s", line, environment, err, text))
			}
		}
	}
}
