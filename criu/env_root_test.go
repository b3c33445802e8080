package criu

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// readlink returns where a link in /proc leads.
func readlink(t *testing.T, format string, args ...any) string {
	t.Helper()
	target, err := os.Readlink(fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatal(err)
	}
	return target
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// threads returns what the named file or link of each of this process's
// threads says, each once.
func threads(t *testing.T, name string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, e := range entries {
		path := filepath.Join("/proc/self/task", e.Name(), name)
		if target, err := os.Readlink(path); err == nil {
			seen[target] = true
		} else if data, err := os.ReadFile(path); err == nil {
			seen[string(data)] = true
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// newNetNS makes a network namespace that lives as long as the file is open.
func newNetNS(t *testing.T) *os.File {
	t.Helper()
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result, 1)
	go onOwnThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{err: err}
			return
		}
		f, err := os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		done <- result{f, err}
	})
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.f.Close() })
	return r.f
}

// testCgroup is a cgroup of one hierarchy, made for one test.
type testCgroup struct {
	dir    string
	unify  bool
	freeze string // the file that freezes it
}

// newCgroup makes a cgroup in the v1 freezer hierarchy or in the v2 tree, or
// skips the test where there is none.
func newCgroup(t *testing.T, unified bool) *testCgroup {
	t.Helper()
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		if unified {
			return m.FSType != "cgroup2", false
		}
		return m.FSType != "cgroup" || !slices.Contains(strings.Split(m.VFSOptions, ","), "freezer"), false
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(mounts) == 0 {
		t.Skip("needs the hierarchy mounted")
	}
	c := &testCgroup{unify: unified, freeze: "freezer.state"}
	if unified {
		c.freeze = "cgroup.freeze"
	}
	c.dir, err = os.MkdirTemp(mounts[0].Mountpoint, "zap-criu-test-")
	if err != nil {
		t.Skipf("needs a cgroup: %v", err)
	}
	t.Cleanup(func() { c.remove(t) })
	return c
}

func (c *testCgroup) remove(t *testing.T) {
	end := time.Now().Add(waitLimit)
	for err := os.Remove(c.dir); err != nil; err = os.Remove(c.dir) {
		if time.Now().After(end) {
			t.Errorf("remove cgroup: %v", err)
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// join returns the file by which a process of ours gets in.
func (c *testCgroup) join() string {
	if c.unify {
		return filepath.Join(c.dir, "cgroup.procs")
	}
	return filepath.Join(c.dir, "tasks")
}

func (c *testCgroup) add(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if err := os.WriteFile(filepath.Join(c.dir, "cgroup.procs"), fmt.Append(nil, pid), 0); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *testCgroup) set(t *testing.T, frozen bool) {
	t.Helper()
	value := map[bool]string{true: "FROZEN", false: "THAWED"}[frozen]
	if c.unify {
		value = map[bool]string{true: "1", false: "0"}[frozen]
	}
	if err := os.WriteFile(filepath.Join(c.dir, c.freeze), []byte(value), 0); err != nil {
		t.Fatal(err)
	}
	c.wait(t, frozen)
}

func (c *testCgroup) wait(t *testing.T, frozen bool) {
	t.Helper()
	end := time.Now().Add(waitLimit)
	for c.frozen(t) != frozen {
		if time.Now().After(end) {
			t.Fatalf("cgroup does not get to frozen %v", frozen)
		}
		time.Sleep(time.Millisecond)
	}
}

func (c *testCgroup) frozen(t *testing.T) bool {
	t.Helper()
	if c.unify {
		return strings.Contains(readFile(t, filepath.Join(c.dir, "cgroup.events")), "frozen 1")
	}
	return strings.TrimSpace(readFile(t, filepath.Join(c.dir, c.freeze))) == "FROZEN"
}

// eachCgroup runs a test with a v1 and with a v2 cgroup.
func eachCgroup(t *testing.T, f func(t *testing.T, c func(*testing.T) *testCgroup)) {
	for name, unified := range map[string]bool{"v1": false, "v2": true} {
		t.Run(name, func(t *testing.T) {
			f(t, func(t *testing.T) *testCgroup { return newCgroup(t, unified) })
		})
	}
}

func TestEnvironment(t *testing.T) {
	eachCgroup(t, func(t *testing.T, makeCgroup func(*testing.T) *testCgroup) {
		r := newRig(t)
		c := makeCgroup(t)
		hostMounts, hostNet := readlink(t, "/proc/self/ns/mnt"), readlink(t, "/proc/self/ns/net")
		hostCgroups := readFile(t, "/proc/self/cgroup")
		netns := newNetNS(t)
		passed, err := os.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer passed.Close()
		s := r.start(Env{NetNS: netns, JoinFiles: []string{c.join()}, Files: []*os.File{passed}})
		if got, want := readlink(t, "/proc/%d/ns/net", s.Pid()), readlink(t, "/proc/self/fd/%d", netns.Fd()); got != want {
			t.Errorf("CRIU is in network namespace %s, want %s", got, want)
		}
		if got := readFile(t, fmt.Sprintf("/proc/%d/cgroup", s.Pid())); !strings.Contains(got, filepath.Base(c.dir)) {
			t.Errorf("CRIU is in cgroups %q, want %s in them", got, c.dir)
		}
		if got := readlink(t, "/proc/%d/fd/%d", s.Pid(), s.FD(0)); got != passed.Name() {
			t.Errorf("descriptor %d is %s, want %s", s.FD(0), got, passed.Name())
		}
		wantThreads(t, "ns/mnt", hostMounts)
		wantThreads(t, "ns/net", hostNet)
		wantThreads(t, "cgroup", hostCgroups)
		s.Close()
	})
}

// wantThreads waits until all threads are where the process is: those that
// were made for a session or a namespace end soon after.
func wantThreads(t *testing.T, name, want string) {
	t.Helper()
	end := time.Now().Add(waitLimit)
	for now := threads(t, name); len(now) != 1 || now[0] != want; now = threads(t, name) {
		if time.Now().After(end) {
			t.Fatalf("this process's threads have %s %q, want %q", name, now, want)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestSessionSeesTheHost(t *testing.T) {
	r := newRig(t)
	s := r.start(Env{PrivateTmp: true})
	inside := fmt.Sprintf("/proc/%d/root", s.Pid())
	host, err := os.ReadDir("/run")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range host {
		if strings.HasPrefix(e.Name(), kdatName) {
			continue
		}
		a, errA := os.Lstat(filepath.Join("/run", e.Name()))
		b, errB := os.Lstat(filepath.Join(inside, "run", e.Name()))
		if errA == nil && (errB != nil || !os.SameFile(a, b)) {
			t.Errorf("/run/%s is not the host's in the session: %v", e.Name(), errB)
		}
	}
	if left, err := os.ReadDir(inside + "/tmp"); err != nil || len(left) != 0 {
		t.Errorf("the session's /tmp has %v, %v; want it empty", left, err)
	}
	if err := os.WriteFile(inside+"/run/only-here", nil, 0o600); err != nil {
		t.Errorf("write into the session's run directory: %v", err)
	}
	if _, err := os.Stat("/run/only-here"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the session's run directory is the host's: %v", err)
	}
}

func TestKernelFactsAreKept(t *testing.T) {
	r := newRig(t)
	s := r.start(Env{})
	name := fmt.Sprintf("/proc/%d/root/run/%s", s.Pid(), kdatName)
	facts := readFile(t, name)
	entries, err := os.ReadDir(r.cache)
	if err != nil || len(entries) != 1 {
		t.Fatalf("cache has %v, %v, want one file", entries, err)
	}
	kept := filepath.Join(r.cache, entries[0].Name())
	if readFile(t, kept) != facts || facts == "" {
		t.Error("the cache differs from what the session has")
	}
	// Another boot's go when something is saved, a broken one does no harm.
	if err := os.Rename(kept, filepath.Join(r.cache, kdatName+"-other-boot-1234")); err != nil {
		t.Fatal(err)
	}
	s = r.start(Env{})
	s.Close()
	if entries, err := os.ReadDir(r.cache); err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(kept) {
		t.Errorf("cache has %v, %v, want only this boot's file", entries, err)
	}
	if err := os.WriteFile(kept, []byte("not what CRIU wrote"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.start(Env{}).Features(t.Context()); err != nil {
		t.Errorf("with a broken cache: %v", err)
	}
}

// TestNothingLeaks starts many sessions and looks at this process.
func TestNothingLeaks(t *testing.T) {
	r := newRig(t)
	r.start(Env{}).Close() // fills the cache, starts the runtime's own threads
	count := func(dir string) int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	fds := count("/proc/self/fd")
	for range 30 {
		if err := r.start(Env{}).Close(); err != nil {
			t.Fatal(err)
		}
	}
	if got := count("/proc/self/fd"); got > fds {
		t.Errorf("%d descriptors, %d before", got, fds)
	}
	if strings.Contains(readFile(t, "/proc/self/mountinfo"), "zap-criu") {
		t.Error("a session's run directory is mounted on the host")
	}
	end := time.Now().Add(waitLimit)
	for n := count("/proc/self/task"); n > 25; n = count("/proc/self/task") {
		if time.Now().After(end) {
			t.Fatalf("%d threads are left of 30 sessions", n)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestFrozenTreeStaysFrozen: CRIU finds a frozen cgroup, thaws it while it
// holds the tree itself, and freezes it again when it lets the tree live.
func TestFrozenTreeStaysFrozen(t *testing.T) {
	eachCgroup(t, func(t *testing.T, makeCgroup func(*testing.T) *testCgroup) {
		c := makeCgroup(t)
		r := newRig(t)
		pids := r.pids()
		c.add(t, pids...)
		c.set(t, true)
		opts := DumpOptions(r.tree.root.Pid, r.images, r.images)
		SetFreezer(opts, c.dir)
		no := errors.New("no")
		_, err := r.start(Env{}).Dump(t.Context(), opts, Callbacks{PostDump: func() error {
			if c.frozen(t) {
				t.Error("frozen at post-dump: docs/criu.md says thawed")
			}
			return no
		}})
		if !errors.Is(err, no) {
			t.Errorf("dump ended with %v", err)
		}
		if !c.frozen(t) {
			t.Error("thawed after a no, want it frozen as it was")
		}
		c.set(t, false)
		r.wantRunning("after the thaw", pids)
		c.set(t, true)
		if _, err := r.start(Env{}).Dump(t.Context(), opts, Callbacks{}); err != nil {
			t.Fatal(err)
		}
		wantGone(t, "after a yes", pids...)
		c.set(t, false)
	})
}

// TestFreezeAtPreResume: a tree whose cgroup is frozen in the callback does not
// run, whatever becomes of CRIU and of the answer.
func TestFreezeAtPreResume(t *testing.T) {
	for name, end := range map[string]func(s *Session) error{
		"yes":         func(*Session) error { return nil },
		"CRIU killed": func(s *Session) error { return s.proc.Kill() },
		"caller gone": func(s *Session) error { return s.wire.close() },
	} {
		t.Run(name, func(t *testing.T) {
			eachCgroup(t, func(t *testing.T, makeCgroup func(*testing.T) *testCgroup) {
				c := makeCgroup(t)
				r := newRig(t)
				r.dumpAway()
				s, opts := r.restoring(Env{JoinFiles: []string{c.join()}})
				var root int
				pid, err := s.Restore(t.Context(), opts, Callbacks{
					PostRestore: func(pid int) error { root = pid; return nil },
					PreResume: func() error {
						// CRIU leaves the cgroup first, or it would be frozen with the tree.
						(&testCgroup{dir: filepath.Dir(c.dir)}).add(t, s.Pid())
						c.set(t, true)
						return end(s)
					},
				})
				if pid != root || (err == nil) != (name == "yes") {
					t.Errorf("restore returned %d, %v; the tree is %d", pid, err, root)
				}
				s.Close()
				r.adopt(root)
				// v2 counts a tree that was let go anew, so this may take a moment; it
				// has not returned from its system call meanwhile.
				c.wait(t, true)
				c.set(t, false)
				r.wantRunning("after the thaw", r.pids())
				r.tree.kill()
			})
		})
	}
}
