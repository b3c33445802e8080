package cgroup

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// chatter writes without end, from two processes, one of them in a child.
const chatter = "(while :; do echo b; done) & while :; do echo a; done"

func TestFreezeAndThaw(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		p := start(t, c, chatter)
		ctx := context.Background()
		for range 3 {
			eventually(t, "both run", func() bool { return len(procs(t, c)) == 2 && p.drain(t) > 0 })
			if err := c.Freeze(ctx); err != nil {
				t.Fatal(err)
			}
			if frozen, err := c.Frozen(); !frozen || err != nil {
				t.Errorf("after Freeze: frozen is %v, %v", frozen, err)
			}
			p.drain(t)
			time.Sleep(20 * time.Millisecond)
			if n := p.drain(t); n > 0 {
				t.Errorf("a frozen group wrote %d bytes", n)
			}
			if err := c.Thaw(ctx); err != nil {
				t.Fatal(err)
			}
			if frozen, err := c.Frozen(); frozen || err != nil {
				t.Errorf("after Thaw: frozen is %v, %v", frozen, err)
			}
		}
	})
}

func TestFreezeNowAndThawNow(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		p := start(t, c, chatter)
		if err := c.FreezeNow(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "freeze", func() bool { f, err := c.Frozen(); return f && err == nil })
		p.drain(t)
		if err := c.ThawNow(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "run again", func() bool { return p.drain(t) > 0 })
	})
}

func TestFreezerPathIsWhatCRIUWants(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		dir := c.FreezerPath()
		_, v1 := os.Stat(filepath.Join(dir, "freezer.state"))
		_, v2 := os.Stat(filepath.Join(dir, "cgroup.freeze"))
		if v1 != nil && v2 != nil {
			t.Errorf("%q is no freezer: %v, %v", dir, v1, v2)
		}
	})
}

// TestThawBelowAFrozenParent: there is nothing to wait for, and the wait ends.
func TestThawBelowAFrozenParent(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		parent := group(t, trees, nil)
		c, err := createIn(trees, parent.Path()+"/below", nil)
		if err != nil {
			t.Fatal(err)
		}
		start(t, c, "read x")
		if err := parent.Freeze(context.Background()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeoutCause(context.Background(), 50*time.Millisecond, errors.New("waited long enough"))
		defer cancel()
		err = c.Thaw(ctx)
		if err == nil || !strings.Contains(err.Error(), "thaw cgroup "+c.Path()+": state is ") ||
			!strings.Contains(err.Error(), "waited long enough") {
			t.Errorf("says %v", err)
		}
		if err := parent.Thaw(context.Background()); err != nil {
			t.Error(err)
		}
		if err := c.Kill(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// TestFreezeThatDoesNotEnd uses files that nobody answers in: a freezer that says FREEZING for ever, as one does above a
// process in an uninterruptible wait.
func TestFreezeThatDoesNotEnd(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"control", "state"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("FREEZING\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f := &freezer{control: dir + "/control", state: dir + "/state", freeze: "FROZEN", thaw: "THAWED"}
	for _, freeze := range []bool{true, false} {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
		err := f.set(ctx, freeze)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "state is FREEZING") {
			t.Errorf("freeze %v: says %v", freeze, err)
		}
		if wish, err := readFile(f.control); err != nil || !strings.HasPrefix(wish, f.word(freeze)) {
			t.Errorf("freeze %v: asked for %q, %v", freeze, wish, err)
		}
	}
}

// TestKillTakesForkingProcesses: a group that replaces its processes all the time dies completely.
func TestKillTakesForkingProcesses(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		var res *specs.LinuxResources
		if (&Cgroup{trees: trees}).tree("pids") != nil { // so that a failure does not take the machine along
			res = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(100))}}
		}
		c := group(t, trees, res)
		p := start(t, c, `trap '' HUP INT TERM
			for i in 1 2 3 4; do (while :; do sleep 0.001; (sleep 1000) & sleep 0.001; kill $!; done) & done; wait`)
		eventually(t, "fork", func() bool { return len(procs(t, c)) > 5 })
		seen := procs(t, c)
		if err := c.Kill(context.Background()); err != nil {
			t.Fatal(err)
		}
		if left := procs(t, c); len(left) > 0 {
			t.Errorf("%v are left", left)
		}
		p.wait(t)
		for _, pid := range seen {
			stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
			group, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
			if err == nil && strings.Contains(string(group), c.Path()) && !strings.Contains(string(stat), ") Z ") {
				t.Errorf("process %d still lives: %s", pid, stat)
			}
		}
	})
}

func TestKillFindsFrozenProcessesAndChildGroups(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		inner, err := createIn(trees, c.Path()+"/inner", nil)
		if err != nil {
			t.Fatal(err)
		}
		p := start(t, inner, "read x")
		if got := procs(t, c); len(got) != 1 || got[0] != p.Process.Pid {
			t.Errorf("Procs is %v, want %d", got, p.Process.Pid)
		}
		if err := c.Freeze(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := c.Kill(context.Background()); err != nil {
			t.Fatal(err)
		}
		if s := p.wait(t); s.Success() {
			t.Errorf("ended with %v", s)
		}
	})
}

// TestKillNowOnAFrozenGroup is the commit of a move: after it nobody may run another instruction, thawed or not.
func TestKillNowOnAFrozenGroup(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		p := start(t, c, chatter)
		eventually(t, "both run", func() bool { return len(procs(t, c)) == 2 && p.drain(t) > 0 })
		if err := c.Freeze(context.Background()); err != nil {
			t.Fatal(err)
		}
		p.drain(t)
		if err := c.KillNow(); err != nil {
			t.Fatal(err)
		}
		if err := c.ThawNow(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "all die", func() bool { return len(procs(t, c)) == 0 })
		p.wait(t)
		if n := p.drain(t); n > 0 {
			t.Errorf("%d bytes were written after the kill", n)
		}
	})
}

func TestSignal(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		p := start(t, c, `trap 'echo got it; exit 7' USR1; echo ready; while :; do read x; done`)
		if line := p.line(t); line != "ready" {
			t.Fatalf("says %q", line)
		}
		if err := c.Signal(usr1); err != nil {
			t.Fatal(err)
		}
		if line := p.line(t); line != "got it" {
			t.Errorf("says %q", line)
		}
		if code := p.wait(t).ExitCode(); code != 7 {
			t.Errorf("ended with %d", code)
		}
	})
}

func TestKillEndsWithItsContext(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		start(t, c, "read x")
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errors.New("somebody hung up"))
		if err := c.Kill(ctx); err == nil || !strings.Contains(err.Error(), "somebody hung up (remain: ") {
			t.Errorf("says %v", err)
		}
	})
}

// TestFrozenWithANewcomer wants a frozen group to stay one while a process comes to it, which the kernel has still to stop.
func TestFrozenWithANewcomer(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		start(t, c, "sleep 100")
		if err := c.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			newcomer := exec.Command("sh", "-c", `echo $$ > "$1"; i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done`, "sh", filepath.Join(c.FreezerPath(), "cgroup.procs"))
			if err := newcomer.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_ = c.ThawNow()
				_ = newcomer.Wait()
			})
			for end := time.Now().Add(5 * time.Millisecond); time.Now().Before(end); {
				if frozen, err := c.Frozen(); !frozen || err != nil {
					t.Fatalf("with a newcomer: frozen is %v, %v", frozen, err)
				}
			}
		}
	})
}
