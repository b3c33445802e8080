package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
)

// waitLimit bounds every wait of these tests.
const waitLimit = 10 * time.Second

// realCRIU returns this machine's CRIU or skips the test.
func realCRIU(t *testing.T) *Binary {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces and runs CRIU")
	}
	b, err := Find(t.Context(), "")
	if err != nil {
		t.Skipf("needs CRIU: %v", err)
	}
	return b
}

// rig is a running tree and what a dump and a restore of it need.
type rig struct {
	*testing.T
	criu   *Binary
	cache  string
	tree   *trialTree
	images *os.File
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, criu: realCRIU(t), cache: t.TempDir()}
	tree, err := startTrialTree(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r.tree = tree
	t.Cleanup(tree.kill)
	if r.images, err = tree.images(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.images.Close() })
	return r
}

func (r *rig) start(e Env) *Session {
	r.Helper()
	e.Cache = r.cache
	s, err := Start(r.Context(), r.criu, e)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { s.Close() })
	return s
}

func (r *rig) dump(ctx context.Context, cb Callbacks) error {
	r.Helper()
	_, err := r.start(Env{}).Dump(ctx, DumpOptions(r.tree.root.Pid, r.images, r.images), cb)
	return err
}

// dumpAway dumps the tree so that it is gone.
func (r *rig) dumpAway() {
	r.Helper()
	if err := r.dump(r.Context(), Callbacks{}); err != nil {
		r.Fatal(err)
	}
	r.tree.kill()
}

// restoring starts a session that can restore the tree, and its options.
func (r *rig) restoring(e Env) (*Session, *rpc.CriuOpts) {
	r.Helper()
	fd, err := unix.OpenTree(unix.AT_FDCWD, r.tree.rootfs(), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		r.Fatal(err)
	}
	mount := os.NewFile(uintptr(fd), r.tree.rootfs())
	defer mount.Close()
	const root = "/run/zap/test-root"
	e.Mounts, e.PrivateTmp = append(e.Mounts, Mount{mount, root}), true
	return r.start(e), RestoreOptions(r.images, r.images, root)
}

// adopt takes the restored tree over, to be killed in the end.
func (r *rig) adopt(pid int) {
	r.Helper()
	p, err := os.FindProcess(pid)
	if err != nil {
		r.Fatal(err)
	}
	r.tree.root = p
}

// pids returns the tree's processes.
func (r *rig) pids() []int { return descendants(r.tree.root.Pid) }

// status returns a process's state letter and the process that traces it.
func status(t *testing.T, pid int) (state string, tracer int) {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "gone", 0
	}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		switch field := strings.Fields(value); name {
		case "State":
			state = field[0]
		case "TracerPid":
			tracer, _ = strconv.Atoi(field[0])
		}
	}
	return state, tracer
}

// wantStates checks that each process is in one of the states (as letters).
func wantStates(t *testing.T, when, states string, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if s, _ := status(t, pid); !strings.Contains(states, s) {
			t.Errorf("%s: process %d is in state %s, want one of %q", when, pid, s, states)
		}
	}
}

// wantRunning checks that the tree is whole, waits in its system call and is
// traced by nobody.
func (r *rig) wantRunning(when string, pids []int) {
	r.Helper()
	if len(pids) != 2 {
		r.Fatalf("%s: processes %v, want two", when, pids)
	}
	end := time.Now().Add(waitLimit)
	for _, pid := range pids {
		for state, tracer := status(r.T, pid); state != "S" || tracer != 0; state, tracer = status(r.T, pid) {
			if time.Now().After(end) {
				r.Fatalf("%s: process %d is in state %s, traced by %d; want it to run", when, pid, state, tracer)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func wantGone(t *testing.T, when string, pids ...int) {
	t.Helper()
	end := time.Now().Add(waitLimit)
	for _, pid := range pids {
		for state, _ := status(t, pid); state != "gone" && state != "Z"; state, _ = status(t, pid) {
			if time.Now().After(end) {
				t.Fatalf("%s: process %d is in state %s, want it gone", when, pid, state)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func TestDumpParkedThenNo(t *testing.T) {
	r := newRig(t)
	pids := r.pids()
	no := errors.New("target said no")
	err := r.dump(t.Context(), Callbacks{
		PreDump: func() error { wantStates(t, "at pre-dump", "S", pids...); return nil },
		PostDump: func() error {
			wantStates(t, "at post-dump", "t", pids...)
			return no
		},
	})
	if !errors.Is(err, no) {
		t.Errorf("dump ended with %v, want the callback's error", err)
	}
	r.wantRunning("after the no", pids)
	// The tree is as good as new: it can be dumped again.
	r.dumpAway()
	wantGone(t, "after the second dump", pids...)
}

func TestDumpParkedThenYes(t *testing.T) {
	r := newRig(t)
	pids := r.pids()
	if err := r.dump(t.Context(), Callbacks{}); err != nil {
		t.Fatal(err)
	}
	wantGone(t, "after a yes", pids...)
	stats, err := ReadDumpStats(r.images)
	if err != nil || stats.Frozen <= 0 || stats.PagesScanned == 0 {
		t.Errorf("statistics %+v, %v", stats, err)
	}
}

// TestDumpBrokenOff breaks a dump off in the ways in which the two processes
// can lose each other. The tree has to run on each time.
func TestDumpBrokenOff(t *testing.T) {
	for name, breakOff := range map[string]func(s *Session, cancel func()) error{
		"CRIU killed":              func(s *Session, _ func()) error { return s.proc.Kill() },
		"CRIU killed, then a no":   func(s *Session, _ func()) error { return errors.Join(errors.New("no"), s.proc.Kill()) },
		"caller gone (socket EOF)": func(s *Session, _ func()) error { return s.wire.close() },
		"context ended, then a no": func(_ *Session, cancel func()) error { cancel(); return errors.New("no") },
	} {
		for _, at := range []string{preDump, postDump} {
			t.Run(at+"/"+name, func(t *testing.T) {
				r := newRig(t)
				pids := r.pids()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				s := r.start(Env{})
				act := func() error { return breakOff(s, cancel) }
				cb := Callbacks{PreDump: act}
				if at == postDump {
					cb = Callbacks{PostDump: act}
				}
				if _, err := s.Dump(ctx, DumpOptions(r.tree.root.Pid, r.images, r.images), cb); err == nil {
					t.Error("the dump reports success")
				}
				s.Close()
				r.wantRunning("afterwards", pids)
			})
		}
	}
}

func TestContextEndsDumpBeforeItStops(t *testing.T) {
	r := newRig(t)
	pids := r.pids()
	ctx, cancel := context.WithCancel(t.Context())
	err := r.dump(ctx, Callbacks{PreDump: func() error { cancel(); return nil }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("dump ended with %v, want the context's error", err)
	}
	r.wantRunning("afterwards", pids)
}

func TestDumpOfNoProcess(t *testing.T) {
	r := newRig(t)
	opts := DumpOptions(1<<22-1, r.images, r.images)
	_, err := r.start(Env{}).Dump(t.Context(), opts, Callbacks{})
	if e := asError(t, err); !strings.Contains(e.Hint, "process is gone") || !strings.HasSuffix(e.Log, DumpLog) {
		t.Errorf("error %v names neither the cause nor the log", err)
	}
}

func TestRestore(t *testing.T) {
	r := newRig(t)
	r.dumpAway()
	s, opts := r.restoring(Env{})
	var rec recorder
	var pids []int
	pid, err := s.Restore(t.Context(), opts, Callbacks{
		PreRestore: rec.note(preRestore), SetupNamespaces: rec.notePid(setupNamespaces, &pids),
		PostRestore: rec.notePid(postRestore, &pids),
		PreResume: func() error {
			wantStates(t, "at pre-resume", "t", descendants(pids[0])...)
			return rec.note(preResume)()
		},
		PostResume: rec.note(postResume),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.adopt(pid)
	if want := []string{preRestore, setupNamespaces, postRestore, preResume, postResume}; !slices.Equal(rec.calls, want) {
		t.Errorf("callbacks %q, want %q", rec.calls, want)
	}
	if want := []int{pid, pid}; !slices.Equal(pids, want) {
		t.Errorf("callbacks got processes %v, restore returned %d", pids, pid)
	}
	r.wantRunning("after the restore", r.pids())
	if ppid := parent(t, pid); ppid != os.Getpid() {
		t.Errorf("the restored process is a child of %d, want this process", ppid)
	}
	if stats, err := ReadRestoreStats(r.images); err != nil || stats.Restoring <= 0 {
		t.Errorf("statistics %+v, %v", stats, err)
	}
	s.Close()
	r.wantRunning("after the session's end", r.pids())
}

func parent(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	ppid, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return ppid
}

// TestRestoreRefused says no at each callback. Nothing may be left.
func TestRestoreRefused(t *testing.T) {
	no := errors.New("coordinator said abort")
	for _, at := range []string{preRestore, setupNamespaces, postRestore, preResume} {
		t.Run(at, func(t *testing.T) {
			r := newRig(t)
			r.dumpAway()
			s, opts := r.restoring(Env{})
			var left []int
			refuse := func(name string, pid int) error {
				if pid > 0 {
					left = descendants(pid)
				}
				if name == at {
					return no
				}
				return nil
			}
			_, err := s.Restore(t.Context(), opts, Callbacks{
				PreRestore:      func() error { return refuse(preRestore, 0) },
				SetupNamespaces: func(pid int) error { return refuse(setupNamespaces, pid) },
				PostRestore:     func(pid int) error { return refuse(postRestore, pid) },
				PreResume:       func() error { return refuse(preResume, 0) },
			})
			if !errors.Is(err, no) {
				t.Errorf("restore ended with %v, want the callback's error", err)
			}
			wantGone(t, "after the no", left...)
			if len(left) > 0 {
				if state, _ := status(t, left[0]); state != "gone" {
					t.Errorf("the first process, %d, was not waited for: state %s", left[0], state)
				}
			}
		})
	}
}

func TestCriuKilledAtPreResumeThenNo(t *testing.T) {
	r := newRig(t)
	r.dumpAway()
	s, opts := r.restoring(Env{})
	var pids []int
	_, err := s.Restore(t.Context(), opts, Callbacks{
		PostRestore: func(pid int) error { pids = descendants(pid); return nil },
		PreResume:   func() error { return errors.Join(errors.New("abort"), s.proc.Kill()) },
	})
	if err == nil {
		t.Error("the restore reports success")
	}
	wantGone(t, "afterwards", pids...)
}

// TestCriuKilledDuringRestore kills CRIU while the processes that it makes wait for it and hold its socket.
func TestCriuKilledDuringRestore(t *testing.T) {
	for _, at := range []string{setupNamespaces, postRestore} {
		t.Run(at, func(t *testing.T) {
			r := newRig(t)
			r.dumpAway()
			s, opts := r.restoring(Env{})
			var pids []int
			strike := func(name string, pid int) error {
				if name != at {
					return nil
				}
				pids = descendants(pid)
				return s.proc.Kill()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			_, err := s.Restore(ctx, opts, Callbacks{
				SetupNamespaces: func(pid int) error { return strike(setupNamespaces, pid) },
				PostRestore:     func(pid int) error { return strike(postRestore, pid) },
			})
			if err == nil || ctx.Err() != nil {
				t.Errorf("the restore ended with %v", err)
			}
			wantGone(t, "afterwards", pids...)
		})
	}
}

func TestContextEndsRestore(t *testing.T) {
	r := newRig(t)
	r.dumpAway()
	s, opts := r.restoring(Env{})
	ctx, cancel := context.WithCancel(t.Context())
	var pids []int
	_, err := s.Restore(ctx, opts, Callbacks{
		PostRestore: func(pid int) error { pids = descendants(pid); cancel(); return nil },
	})
	if !errors.Is(err, context.Canceled) || len(pids) != 2 {
		t.Errorf("restore of %v ended with %v, want the context's error", pids, err)
	}
	wantGone(t, "afterwards", pids...)
}

func TestTrial(t *testing.T) {
	b := realCRIU(t)
	dir := t.TempDir()
	result, err := Trial(t.Context(), b, filepath.Join(dir, "cache"), dir)
	if err != nil {
		t.Fatal(err)
	}
	if result.Dump <= 0 || result.Restore <= 0 {
		t.Errorf("result %+v, want times", result)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "cache" {
		t.Errorf("the trial left %v, %v", left, err)
	}
}

// TestContextEndsStuckDump has CRIU wait for a page server that says nothing,
// in the middle of the dump, with its parasite in the tree.
func TestContextEndsStuckDump(t *testing.T) {
	r := newRig(t)
	pids := r.pids()
	ours, theirs := socketPair(t)
	s := r.start(Env{Files: []*os.File{theirs}})
	opts := DumpOptions(r.tree.root.Pid, r.images, r.images)
	SetPageSocket(opts, s.FD(0))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { // CRIU asks for the first process's pages
		_, _ = ours.Read(make([]byte, 32))
		cancel()
	}()
	_, err := s.Dump(ctx, opts, Callbacks{})
	if e := asError(t, err); !errors.Is(err, context.Canceled) || !e.Killed {
		t.Errorf("dump ended with %v (killed %v), want the context's error and a killed CRIU", err, e.Killed)
	}
	r.wantRunning("afterwards", pids)
}

func socketPair(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs = os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}
