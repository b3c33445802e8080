package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/boot"
)

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

// TestAbandonedCreation kills the creator between the birth of the child and its word: nothing of the container may run on.
func TestAbandonedCreation(t *testing.T) {
	l := newLab(t)
	b := l.bundle("sleep 1000")
	program, err := boot.Compile(b.Spec, boot.Facts{Root: b.RootPath(), Gate: boot.GateWord})
	if err != nil {
		t.Fatal(err)
	}
	child, err := program.Start(boot.Bind{})
	if err != nil {
		t.Fatal(err)
	}
	if event, err := child.Next(l.ctx); err != nil || event.Mark != boot.MarkCreated {
		t.Fatalf("event %+v, %v", event, err)
	}
	child.Close() // as the end of the creator would
	if code, err := (&Process{Pid: child.Pid}).Wait(l.ctx); err != nil || code != 127 {
		t.Errorf("exit code %d, %v; want 127", code, err)
	}
}
