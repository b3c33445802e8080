package criu

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/criu/criutest"
)

func TestMain(m *testing.M) { criutest.Main(m) }

// startStand starts a session with a stand-in that follows the steps.
func startStand(t *testing.T, steps ...criutest.Step) (*Session, *criutest.Stand) {
	t.Helper()
	stand := criutest.New(t, criutest.Script{Steps: steps})
	b, err := Open(t.Context(), stand.Path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Start(t.Context(), b, Env{Bare: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, stand
}

// workDir opens a directory for images and logs.
func workDir(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func dumpOptions(t *testing.T) *rpc.CriuOpts {
	dir := workDir(t)
	return DumpOptions(os.Getpid(), dir, dir)
}

func restoreOptions(t *testing.T) *rpc.CriuOpts {
	dir := workDir(t)
	o := RestoreOptions(dir, dir, "")
	o.RstSibling = nil
	return o
}

// yes is the reply of a CRIU that did as it was told.
var yes = criutest.Step{Reply: &criutest.Reply{Success: true}}

// asError returns err as an *Error or ends the test.
func asError(t *testing.T, err error) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v (%T), want an *Error", err, err)
	}
	return e
}

// recorder makes callbacks that note their names.
type recorder struct{ calls []string }

func (r *recorder) note(name string) func() error {
	return func() error { r.calls = append(r.calls, name); return nil }
}

func (r *recorder) notePid(name string, pids *[]int) func(int) error {
	return func(pid int) error { *pids = append(*pids, pid); return r.note(name)() }
}

func TestDumpCallbacks(t *testing.T) {
	s, stand := startStand(t,
		criutest.Step{Notify: preDump}, criutest.Step{Notify: networkLock}, criutest.Step{Notify: queryExternal},
		criutest.Step{Notify: "something-new"}, criutest.Step{Notify: postDump}, criutest.Step{Notify: networkUnlock}, yes)
	var r recorder
	opts := dumpOptions(t)
	opts.NotifyScripts = nil
	_, err := s.Dump(t.Context(), opts, Callbacks{
		PreDump: r.note("PreDump"), NetworkLock: r.note("NetworkLock"), PostDump: r.note("PostDump"),
		QueryExternal: func() ([]string, error) { return []string{"mnt[/a]:b", "tty[1:2]"}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"PreDump", "NetworkLock", "PostDump"}; !slices.Equal(r.calls, want) {
		t.Errorf("callbacks %q, want %q", r.calls, want)
	}
	if !opts.GetNotifyScripts() {
		t.Error("a dump without callbacks was asked for: CRIU would kill the tree when this process dies")
	}
	answers := stand.Answers(t)
	if len(answers) != 6 {
		t.Fatalf("%d answers, want 6: %+v", len(answers), answers)
	}
	for _, a := range answers {
		if !a.Yes {
			t.Errorf("%s was answered with no", a.Notify)
		}
	}
	if want := []string{"mnt[/a]:b", "tty[1:2]"}; !slices.Equal(answers[2].External, want) {
		t.Errorf("external resources %q, want %q", answers[2].External, want)
	}
}

func TestCallbackSaysNo(t *testing.T) {
	refused := errors.New("peer is gone")
	no := func() error { return refused }
	noPid := func(int) error { return refused }
	failed := criutest.Step{Reply: &criutest.Reply{Message: "some consequence"}}
	for _, c := range []struct {
		name    string
		restore bool
		cb      Callbacks
	}{
		{preDump, false, Callbacks{PreDump: no}},
		{networkLock, false, Callbacks{NetworkLock: no}},
		{queryExternal, false, Callbacks{QueryExternal: func() ([]string, error) { return nil, refused }}},
		{postDump, false, Callbacks{PostDump: no}},
		{preRestore, true, Callbacks{PreRestore: no}},
		{setupNamespaces, true, Callbacks{SetupNamespaces: noPid}},
		{postRestore, true, Callbacks{PostRestore: noPid}},
		{preResume, true, Callbacks{PreResume: no}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, stand := startStand(t, criutest.Step{Notify: c.name}, failed)
			var err error
			if c.restore {
				_, err = s.Restore(t.Context(), restoreOptions(t), c.cb)
			} else {
				_, err = s.Dump(t.Context(), dumpOptions(t), c.cb)
			}
			if !errors.Is(err, refused) {
				t.Errorf("error %v does not wrap the callback's", err)
			}
			if e := asError(t, err); !strings.Contains(e.Cause, c.name) {
				t.Errorf("cause %q does not name the callback %s", e.Cause, c.name)
			}
			a := stand.Answers(t)
			if c.name == preResume && len(a) == 0 {
				return // CRIU would run the tree after a no, so it gets none
			}
			if len(a) != 1 || a[0].Yes {
				t.Errorf("answers %+v, want one no", a)
			}
		})
	}
}

func TestAnswersThatChangeNothing(t *testing.T) {
	no := func() error { return errors.New("no") }
	s, _ := startStand(t, criutest.Step{Notify: networkUnlock}, criutest.Step{Notify: postResume},
		criutest.Step{Reply: &criutest.Reply{Success: true, Pid: 7}})
	pid, err := s.Restore(t.Context(), restoreOptions(t), Callbacks{NetworkUnlock: no, PostResume: no})
	if pid != 7 || err != nil {
		t.Errorf("restore returned %d, %v, want 7 and no error", pid, err)
	}
}

func TestOrphanPtsMaster(t *testing.T) {
	name := filepath.Join(t.TempDir(), "master")
	if err := os.WriteFile(name, []byte("a terminal"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, _ := startStand(t, criutest.Step{Notify: orphanPtsMaster, PassFile: name}, yes)
	var got string
	_, err := s.Restore(t.Context(), restoreOptions(t), Callbacks{OrphanPtsMaster: func(f *os.File) error {
		defer f.Close()
		data, err := io.ReadAll(f)
		got = string(data)
		return err
	}})
	if err != nil || got != "a terminal" {
		t.Errorf("got %q, %v through the passed descriptor", got, err)
	}
}

func TestOrphanPtsMasterWithoutDescriptor(t *testing.T) {
	s, stand := startStand(t, criutest.Step{Notify: orphanPtsMaster}, yes)
	_, err := s.Restore(t.Context(), restoreOptions(t), Callbacks{})
	if err == nil || stand.Answers(t)[0].Yes {
		t.Errorf("a callback without its descriptor was accepted: %v", err)
	}
}

func TestFailureNamesFirstRealError(t *testing.T) {
	s, _ := startStand(t,
		criutest.Step{Log: "(00.000010) Error (criu/rlimit.c:17): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted"},
		criutest.Step{Log: "(00.010000) Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option."},
		criutest.Step{Log: "(00.020000) Error (criu/cr-dump.c:2111): Dumping FAILED."},
		criutest.Step{Reply: &criutest.Reply{Errno: int(syscall.EBADRQC), Message: "Error (criu/rlimit.c:17): rlimit"}})
	opts := dumpOptions(t)
	_, err := s.Dump(t.Context(), opts, Callbacks{})
	e := asError(t, err)
	if want := "inet: Connected TCP socket, consider using --tcp-established option."; e.Cause != want {
		t.Errorf("cause %q, want %q", e.Cause, want)
	}
	if !strings.Contains(e.Hint, "tcp_established") {
		t.Errorf("hint %q does not say what to do", e.Hint)
	}
	if data, err := os.ReadFile(e.Log); err != nil || !strings.Contains(string(data), "Dumping FAILED") {
		t.Errorf("log path %q does not lead to the log: %v", e.Log, err)
	}
	if e.Errno != syscall.EBADRQC || e.Killed {
		t.Errorf("errno %v, killed %v; want EBADRQC and not killed", e.Errno, e.Killed)
	}
}

func TestCriuDies(t *testing.T) {
	s, _ := startStand(t, criutest.Step{Output: "criu: error while loading shared libraries: libfoo.so"}, criutest.Step{Exit: 3})
	_, err := s.Dump(t.Context(), dumpOptions(t), Callbacks{})
	if e := asError(t, err); !strings.Contains(e.Cause, "exit status 3") {
		t.Errorf("cause %q does not say how CRIU ended", e.Cause)
	}
}

func TestContextEndsRequest(t *testing.T) {
	for _, c := range []struct {
		name   string
		last   criutest.Step
		killed bool
	}{
		{"CRIU waits for an answer", criutest.Step{Notify: postDump}, false},
		{"CRIU hangs", criutest.Step{Hang: true}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := startStand(t, criutest.Step{Notify: preDump}, c.last)
			ctx, cancel := context.WithCancelCause(t.Context())
			reason := errors.New("operator pressed a key")
			_, err := s.Dump(ctx, dumpOptions(t), Callbacks{PreDump: func() error { cancel(reason); return nil }})
			if !errors.Is(err, reason) {
				t.Errorf("error %v does not wrap the context's cause", err)
			}
			if e := asError(t, err); e.Killed != c.killed {
				t.Errorf("killed %v, want %v", e.Killed, c.killed)
			}
			select {
			case <-s.exited:
			default:
				t.Error("CRIU is still there")
			}
		})
	}
}

// TestCriuStalls meets a CRIU that waits for something for ever, as one does whose tracee does not stop.
func TestCriuStalls(t *testing.T) {
	s, _ := startStand(t, criutest.Step{Notify: preDump}, criutest.Step{Hang: true})
	s.patience = 500 * time.Millisecond
	answered := false
	_, err := s.Dump(t.Context(), dumpOptions(t), Callbacks{PreDump: func() error {
		time.Sleep(2 * s.patience) // it is not CRIU's turn
		answered = true
		return nil
	}})
	if e := asError(t, err); !answered || !e.Killed || !strings.HasPrefix(e.Cause, "CRIU did nothing for 500ms: it waits in ") {
		t.Errorf("answered %v, error %v", answered, err)
	}
}

// TestCriuIsSlow meets one that takes longer than its patience, but works, or has been stopped by somebody.
func TestCriuIsSlow(t *testing.T) {
	s, _ := startStand(t, criutest.Step{Notify: preDump}, criutest.Step{Spin: 2 * time.Second}, yes)
	s.patience = 500 * time.Millisecond
	if _, err := s.Dump(t.Context(), dumpOptions(t), Callbacks{}); err != nil {
		t.Errorf("one that works: %v", err)
	}
	s, _ = startStand(t, criutest.Step{Notify: preDump}, yes)
	s.patience = 500 * time.Millisecond
	_, err := s.Dump(t.Context(), dumpOptions(t), Callbacks{PreDump: func() error {
		go func() {
			time.Sleep(3 * s.patience)
			_ = unix.Kill(s.Pid(), unix.SIGCONT)
		}()
		return unix.Kill(s.Pid(), unix.SIGSTOP)
	}})
	if err != nil {
		t.Errorf("one that was stopped: %v", err)
	}
}

func TestNoWayBackAfterFinalYes(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s, _ := startStand(t, criutest.Step{Notify: postDump}, criutest.Step{Notify: networkUnlock}, yes)
	_, err := s.Dump(ctx, dumpOptions(t), Callbacks{PostDump: func() error { cancel(); return nil }})
	if err != nil {
		t.Errorf("dump after a yes to PostDump ended with %v", err)
	}
}

// startSleeper starts a process that stands for a restored tree.
func startSleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	c := exec.Command("sleep", "60")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return c
}

func TestNoToPreResumeKillsTree(t *testing.T) {
	c := startSleeper(t)
	s, _ := startStand(t, criutest.Step{Notify: postRestore, Pid: c.Process.Pid}, criutest.Step{Notify: preResume}, yes)
	pid, err := s.Restore(t.Context(), restoreOptions(t), Callbacks{PreResume: func() error { return errors.New("abort") }})
	if pid != 0 || err == nil {
		t.Errorf("restore returned %d, %v, want an error", pid, err)
	}
	if err := c.Wait(); err == nil || c.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the tree ended with %v, want SIGKILL", err)
	}
}

func TestTreeIsKeptAfterYesToPreResume(t *testing.T) {
	c := startSleeper(t)
	s, _ := startStand(t, criutest.Step{Notify: postRestore, Pid: c.Process.Pid}, criutest.Step{Notify: preResume}, criutest.Step{Exit: 9})
	pid, err := s.Restore(t.Context(), restoreOptions(t), Callbacks{})
	if pid != c.Process.Pid || err == nil {
		t.Errorf("restore returned %d, %v, want %d and an error", pid, err, c.Process.Pid)
	}
	if err := c.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the tree is gone: %v", err)
	}
}

func TestTreeIsKilledWhenCriuDiesBeforePreResume(t *testing.T) {
	c := startSleeper(t)
	s, _ := startStand(t, criutest.Step{Notify: postRestore, Pid: c.Process.Pid}, criutest.Step{Exit: 9})
	if _, err := s.Restore(t.Context(), restoreOptions(t), Callbacks{}); err == nil {
		t.Error("restore reports success")
	}
	if err := c.Wait(); err == nil {
		t.Error("the tree ended by itself, not by a signal")
	}
}

func TestLargeMessages(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	s, _ := startStand(t, criutest.Step{Reply: &criutest.Reply{Message: "Error (a.c:1): " + long}})
	opts := dumpOptions(t)
	DumpExternalMount(opts, "/"+strings.Repeat("y", 300<<10), "key")
	_, err := s.Dump(t.Context(), opts, Callbacks{})
	if e := asError(t, err); e.Cause != long {
		t.Errorf("cause of %d bytes, want %d: %.100s", len(e.Cause), len(long), e.Cause)
	}
}

func TestNonsense(t *testing.T) {
	s, _ := startStand(t, criutest.Step{Raw: []byte("\xff\xff\xffnonsense")})
	_, err := s.Dump(t.Context(), dumpOptions(t), Callbacks{})
	if e := asError(t, err); !strings.Contains(e.Cause, "decode reply") {
		t.Errorf("cause %q does not say that the reply is nonsense", e.Cause)
	}
}

func TestSessionTakesOneRequest(t *testing.T) {
	s, _ := startStand(t, yes)
	if _, err := s.Dump(t.Context(), dumpOptions(t), Callbacks{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Dump(t.Context(), dumpOptions(t), Callbacks{}); err == nil {
		t.Error("a second dump was accepted")
	}
}

func TestFeatures(t *testing.T) {
	s, _ := startStand(t, yes)
	f, err := s.Features(t.Context())
	if want := (Features{LazyPages: true, PidfdStore: true}); f != want || err != nil {
		t.Errorf("features %+v, %v, want %+v", f, err, want)
	}
	if _, err := s.Dump(t.Context(), dumpOptions(t), Callbacks{}); err != nil {
		t.Errorf("dump after a feature check: %v", err)
	}
}

func TestStartFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "criu")
	script := "#!/bin/sh\n[ \"$1\" = --version ] && echo 'Version: 4.2' || { echo 'Error (criu/crtools.c:1): broken' >&2; exit 1; }\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	b, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if b.Version != 40200 {
		t.Errorf("version %d, want 40200", b.Version)
	}
	_, err = Start(t.Context(), b, Env{Bare: true})
	if e := asError(t, err); e.Cause != "broken" {
		t.Errorf("cause %q, want CRIU's own words", e.Cause)
	}
}

func TestStartOtherVersion(t *testing.T) {
	stand := criutest.New(t, criutest.Script{})
	_, err := Start(t.Context(), &Binary{Path: stand.Path, Version: 30000}, Env{Bare: true})
	if err == nil || !strings.Contains(err.Error(), "replaced") {
		t.Errorf("error %v, want one about a replaced binary", err)
	}
}

func TestCloseIsQuickAndRepeatable(t *testing.T) {
	s, _ := startStand(t)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
	if s.state == nil || s.state.Sys().(syscall.WaitStatus).Signaled() {
		t.Errorf("CRIU ended with %v, want an exit of its own", s.state)
	}
}

func TestMountsAreChecked(t *testing.T) {
	for _, path := range []string{"/tmp/x", "/run", "/run/../etc", "run/x"} {
		_, err := Start(t.Context(), &Binary{Path: "/bin/true"}, Env{Mounts: []Mount{{Path: path}}})
		if err == nil || !strings.Contains(err.Error(), "below /run") {
			t.Errorf("mount on %s: error %v", path, err)
		}
	}
}

func TestEndedContext(t *testing.T) {
	s, _ := startStand(t, criutest.Step{Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	if _, err := s.Dump(ctx, dumpOptions(t), Callbacks{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the context's", err)
	}
}
