package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestCreateAndDelete(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		path := uniquePath() + "/deep/er"
		c, err := createIn(trees, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for name, dir := range c.Paths() {
			if st, err := os.Stat(dir); err != nil || !st.IsDir() || !strings.HasSuffix(dir, path) {
				t.Errorf("%q: %s: %v", name, dir, err)
			}
		}
		again, err := loadIn(trees, path)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := again.JoinFiles(), c.JoinFiles(); !slices.Equal(got, want) {
			t.Errorf("loaded: %v, made: %v", got, want)
		}
		for range 2 { // deleting what is gone is fine
			if err := again.Delete(context.Background()); err != nil {
				t.Error(err)
			}
		}
		for _, h := range trees {
			top := h.mount + strings.Join(strings.Split(path, "/")[:3], "/")
			if _, err := os.Stat(top); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the parent %s is left: %v", top, err)
			}
		}
		if _, err := loadIn(trees, path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("load what is deleted: %v", err)
		}
	})
}

func TestForeignParentsStay(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		parent := strings.Replace(uniquePath()[1:], "/", "-", 1)
		c, err := createIn(trees, parent+"/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Delete(context.Background()); err != nil {
			t.Fatal(err)
		}
		for _, h := range trees {
			if err := os.Remove(h.mount + "/" + parent); err != nil {
				t.Errorf("the parent is not there: %v", err)
			}
		}
	})
}

func TestJoinFilesCoverEveryHierarchy(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		p := start(t, c, "read x")
		data, err := os.ReadFile("/proc/" + strconv.Itoa(p.Process.Pid) + "/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		in := 0
		for line := range strings.Lines(string(data)) {
			if strings.HasSuffix(strings.TrimSpace(line), ":"+c.Path()) {
				in++
			}
		}
		if in != len(trees) {
			t.Errorf("in the group in %d hierarchies of %d:\n%s", in, len(trees), data)
		}
		if got := procs(t, c); !slices.Equal(got, []int{p.Process.Pid}) {
			t.Errorf("Procs is %v, want %d", got, p.Process.Pid)
		}
	})
}

// TestCloneIntoUnifiedDir shows that a process can be born into the v2 tree of a hybrid host as well.
func TestCloneIntoUnifiedDir(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		if c.UnifiedDir() == "" {
			if modeOf(trees) != "v1" {
				t.Error("no UnifiedDir")
			}
			return
		}
		dir, err := os.Open(c.UnifiedDir())
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		cmd := exec.Command("sleep", "1000")
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		pids, err := readPids(c.UnifiedDir())
		if err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
			t.Errorf("%v, %v are in it, want %d", pids, err, cmd.Process.Pid)
		}
		// It is in one hierarchy only, and Kill finds it all the same.
		if err := c.Kill(context.Background()); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestCreateRefusesAGroupInUse(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		if err := c.Freeze(context.Background()); err != nil {
			t.Fatal(err)
		}
		if _, err := createIn(trees, c.Path(), nil); err != nil {
			t.Errorf("an empty group: %v", err)
		}
		if frozen, err := c.Frozen(); frozen || err != nil {
			t.Errorf("a group that was taken over is frozen: %v, %v", frozen, err)
		}
		start(t, c, "read x")
		_, err := createIn(trees, c.Path(), nil)
		if err == nil || !strings.Contains(err.Error(), "container's cgroup is not empty: 1 process(es)") {
			t.Errorf("a group in use: %v", err)
		}
		if len(procs(t, c)) != 1 {
			t.Error("the process in it did not survive the attempt")
		}
	})
}

// TestCreateRefusesAFrozenGroup: it is somebody else's.
func TestCreateRefusesAFrozenGroup(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		path := fmt.Sprintf("/zap-test-frozen-%d", os.Getpid())
		c, err := createIn(trees, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Delete(context.Background()); err != nil {
				t.Error(err)
			}
		})
		if err := c.Freeze(context.Background()); err != nil {
			t.Fatal(err)
		}
		if _, err := createIn(trees, path, nil); err == nil || !strings.Contains(err.Error(), "container's cgroup unexpectedly frozen") {
			t.Errorf("says %v", err)
		}
		if frozen, err := c.Frozen(); !frozen || err != nil {
			t.Errorf("frozen is %v after the attempt, %v", frozen, err)
		}
	})
}

// TestCreateTogether makes and deletes groups of one parent at once: each deletion may take the parent away.
func TestCreateTogether(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		parent := uniquePath()
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for range 30 {
					c, err := createIn(trees, parent+"/"+strconv.Itoa(i), nil)
					if err != nil {
						t.Error(err)
						return
					}
					if err := c.Delete(context.Background()); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		for _, h := range trees {
			if _, err := os.Stat(h.mount + parent); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left: %v", h.mount+parent, err)
			}
		}
	})
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		path := uniquePath()
		res := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Type: "x"}}}
		_, err := createIn(trees, path, res)
		if err == nil || !strings.Contains(err.Error(), "config.json: linux.resources.devices") ||
			!strings.HasPrefix(err.Error(), "create cgroup "+path+": set devices: ") {
			t.Errorf("says %v", err)
		}
		for _, h := range trees {
			if _, err := os.Stat(h.mount + path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left: %v", h.mount+path, err)
			}
		}
	})
}

// TestDeleteTakesChildrenAlong: a container that sees its cgroups may have made groups in them.
func TestDeleteTakesChildrenAlong(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		for _, h := range trees {
			if err := os.MkdirAll(filepath.Join(c.dir(h), "inner", "most"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Delete(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// TestDeleteEmpty removes a group without a look into it, and leaves one with a process or a child to the others.
func TestDeleteEmpty(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		for range 2 { // the second time nothing is there
			if !c.DeleteEmpty() {
				t.Error("an empty group is not gone")
			}
		}
		c = group(t, trees, nil)
		start(t, c, "read x")
		if c.DeleteEmpty() {
			t.Error("a group with a process is gone")
		}
		if err := errors.Join(c.Kill(context.Background()), c.Delete(context.Background())); err != nil {
			t.Errorf("after that: %v", err)
		}
		c = group(t, trees, nil)
		last := trees[len(trees)-1]
		if err := os.Mkdir(filepath.Join(c.dir(last), "inner"), 0o755); err != nil {
			t.Fatal(err)
		}
		if c.DeleteEmpty() {
			t.Error("a group with a child is gone")
		}
		if err := errors.Join(c.Kill(context.Background()), c.Delete(context.Background())); err != nil {
			t.Errorf("after that: %v", err)
		}
		for _, h := range trees {
			if _, err := os.Stat(c.dir(h)); !os.IsNotExist(err) {
				t.Errorf("%s: %v", c.dir(h), err)
			}
		}
	})
}

func TestDeleteOfAGroupInUseNamesTheProcess(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		p := start(t, c, "read x")
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errors.New("no time left"))
		err := c.Delete(ctx)
		if err == nil || !strings.Contains(err.Error(), "no time left") ||
			!strings.Contains(err.Error(), strconv.Itoa(p.Process.Pid)+" (sh, state ") {
			t.Errorf("says %v", err)
		}
	})
}

func TestAdd(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		c := group(t, trees, nil)
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
		if err := c.Add(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		for _, h := range trees {
			if pids, err := readPids(c.dir(h)); err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
				t.Errorf("%s has %v, %v", c.dir(h), pids, err)
			}
		}
	})
}
