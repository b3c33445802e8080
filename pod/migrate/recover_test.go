package migrate

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
)

var quiet = slog.New(slog.DiscardHandler)

// dialing makes connections to a target's Handle, or to any other handler, after it has been in vain a number of times.
type dialing struct {
	t      *testing.T
	handle func(*stream.Conn)
	vain   atomic.Int32 // dials that fail first
	dials  atomic.Int32
}

func (d *dialing) Dial(context.Context) (*stream.Conn, error) {
	d.dials.Add(1)
	if d.vain.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "dial", Err: errors.New("no route")}
	}
	near, far := pair(d.t)
	go func() {
		d.handle(far)
		far.Close()
	}()
	return near, nil
}

// to is a way to a target, as the host from.
func (target *Target) dialer(t *testing.T, from string) *dialing {
	return &dialing{t: t, handle: func(c *stream.Conn) { _ = target.Handle(context.Background(), c, from) }}
}

// answering is a way to a peer that gives one answer to every query.
func answering(t *testing.T, typ uint8, document any) *dialing {
	return &dialing{t: t, handle: func(c *stream.Conn) {
		if _, err := c.Read(); err == nil {
			_ = c.WriteJSON(typ, document)
		}
	}}
}

func sourceJournal(t *testing.T, p *pod.Pod, phases ...Phase) *Journal {
	t.Helper()
	h := header("source")
	h.Pod = p.ID()
	j, err := NewJournal(p.Dir(), h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	enter(t, j, phases...)
	return j
}

// left is a pod whose move was left in a phase by a coordinator that has died.
func left(t *testing.T, phases ...Phase) (*runtime.Runtime, *pod.Pod) {
	t.Helper()
	noLeaks(t)
	rt, p := testPod(t, "web")
	sourceJournal(t, p, phases...).Close()
	return rt, p
}

func way(d Dialer) func(*Journal) (Dialer, error) {
	return func(*Journal) (Dialer, error) { return d, nil }
}

func TestDeliver(t *testing.T) {
	_, p := testPod(t, "web")
	j := sourceJournal(t, p, Offered)
	d := testTarget(t).dialer(t, "alpha")
	d.vain.Store(3)
	st, err := deliver(soon(t), d, j, "abort", quiet)
	if err != nil || st.Phase != Discarded || d.dials.Load() != 4 {
		t.Errorf("%+v, %v after %d dials", st, err, d.dials.Load())
	}
	// What asking again does not change is said at once.
	for name, d := range map[string]*dialing{
		"it knows nothing": testTarget(t).dialer(t, "alpha"),
		"it has lost it":   answering(t, frameStatus, status{Phase: Prepared, Lost: true, Error: "died\x1b"}),
		"it dropped it":    answering(t, frameStatus, status{Phase: Discarded}),
	} {
		_, err := deliver(soon(t), d, j, "commit", quiet)
		var refused *refusedError
		if !errors.As(err, &refused) || d.dials.Load() != 1 || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %q after %d dials", name, err, d.dials.Load())
		}
	}
	// Everything else may pass.
	for name, d := range map[string]*dialing{
		"an error":         answering(t, frameStatus, status{Error: "busy"}),
		"another frame":    answering(t, frameAccept, status{}),
		"another document": answering(t, frameStatus, 7),
		"nothing":          {t: t, handle: func(c *stream.Conn) { _, _ = c.Read() }},
	} {
		patience := 120 * time.Millisecond
		if os.Getenv("ZAP_TEST_SLOWNESS") != "" { // an emulated machine, where one dial may take so long
			patience = 3 * time.Second
		}
		brief, cancel := context.WithTimeout(context.Background(), patience)
		_, err := deliver(brief, d, j, "commit", quiet)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || d.dials.Load() < 2 {
			t.Errorf("%s: %v after %d dials", name, err, d.dials.Load())
		}
	}
}

// TestDeliverSuperseded has a person resolve a move while its target is being asked.
func TestDeliverSuperseded(t *testing.T) {
	_, p := testPod(t, "web")
	j := sourceJournal(t, p, Offered)
	d := &dialing{t: t}
	d.vain.Store(1 << 30)
	ended := make(chan error, 1)
	go func() {
		_, err := deliver(context.Background(), d, j, "commit", quiet)
		ended <- err
	}()
	for d.dials.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := reopen(t, p.Dir()).Remove(); err != nil {
		t.Fatal(err)
	}
	within(t, "asking", func() {
		if err := <-ended; !errors.Is(err, errSuperseded) {
			t.Error(err)
		}
	})
}

// TestRecoverUndoes recovers moves that were not committed: the pod stays, the target drops what it has.
func TestRecoverUndoes(t *testing.T) {
	for _, phases := range [][]Phase{
		{}, {Offered}, {Offered, PreCopying}, {Offered, PreCopying, Frozen}, {Offered, PreCopying, Frozen, Sent}, {Offered, PreCopying, Frozen, Aborted},
	} {
		rt, p := left(t, phases...)
		d := testTarget(t).dialer(t, "alpha")
		if err := Recover(soon(t), rt, "web", way(d), quiet); err != nil {
			t.Errorf("%v: %v", phases, err)
		}
		if _, err := OpenJournal(p.Dir()); !errors.Is(err, ErrNoJournal) || d.dials.Load() != 1 {
			t.Errorf("%v: %v, %d dials", phases, err, d.dials.Load())
		}
		if _, err := pod.Load(rt, "web"); err != nil {
			t.Errorf("%v: the pod is gone: %v", phases, err)
		}
	}
}

// TestRecoverUndoesWithoutTarget lets the pod go on before the target answers, and remembers that it has to be told.
func TestRecoverUndoesWithoutTarget(t *testing.T) {
	rt, p := left(t, Offered, PreCopying, Frozen)
	brief, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	d := &dialing{t: t}
	d.vain.Store(1 << 30)
	err := Recover(brief, rt, "web", way(d), quiet)
	if err == nil || !strings.Contains(err.Error(), "192.0.2.2") || !strings.Contains(err.Error(), "--resolve") {
		t.Errorf("%v", err)
	}
	if got := reopen(t, p.Dir()).Phase(); got != Aborted {
		t.Errorf("in phase %s", got)
	}
	nokeys := func(*Journal) (Dialer, error) { return nil, errors.New("keys are gone") }
	brief, cancel = context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := Recover(brief, rt, "web", nokeys, quiet); err == nil || !strings.Contains(err.Error(), "keys are gone") {
		t.Errorf("%v", err)
	}
	if err := Recover(soon(t), rt, "web", way(testTarget(t).dialer(t, "alpha")), quiet); err != nil {
		t.Error(err)
	}
	if _, err := OpenJournal(p.Dir()); !errors.Is(err, ErrNoJournal) {
		t.Errorf("%v", err)
	}
}

// TestRecoverFinishes recovers a move that was committed: once the target says that the pod runs there, nothing of it is left.
func TestRecoverFinishes(t *testing.T) {
	rt, p := left(t, Offered, PreCopying, Frozen, Sent, Committed)
	err := Recover(soon(t), rt, "web", way(testTarget(t).dialer(t, "alpha")), quiet)
	var unresolved *UnresolvedError
	if !errors.As(err, &unresolved) || unresolved.Pod != "web" {
		t.Errorf("a target that knows nothing: %v", err)
	}
	if got := reopen(t, p.Dir()).Phase(); got != Committed {
		t.Errorf("then it is in phase %s", got)
	}
	target := testTarget(t)
	there, arrived := testPod(t, "web")
	if err := arrived.Update(func(r *pod.Record) { r.Migration = aMigration }); err != nil {
		t.Fatal(err)
	}
	target.Runtime = there
	d := target.dialer(t, "alpha")
	d.vain.Store(2)
	if err := Recover(soon(t), rt, "web", way(d), quiet); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(rt.Root()); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
	if err := Recover(soon(t), rt, "web", way(d), quiet); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestRecoverBusy(t *testing.T) {
	noLeaks(t)
	rt, p := testPod(t, "web")
	j := sourceJournal(t, p, Offered)
	d := testTarget(t).dialer(t, "alpha")
	if err := Recover(soon(t), rt, "web", way(d), quiet); !errors.Is(err, ErrBusy) || d.dials.Load() != 0 {
		t.Errorf("while its coordinator works: %v", err)
	}
	// The guard waits until that has ended.
	ended := make(chan error, 1)
	go func() { ended <- TakeOver(soon(t), rt, "web", way(d), quiet) }()
	select {
	case err := <-ended:
		t.Errorf("it did not wait: %v", err)
	case <-time.After(30 * time.Millisecond):
	}
	j.Close()
	within(t, "taking over", func() {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if _, err := OpenJournal(p.Dir()); !errors.Is(err, ErrNoJournal) {
		t.Errorf("%v", err)
	}
}

// TestRecoverTogether lets many recover one move at once, as a guard, a serve and a second try may.
func TestRecoverTogether(t *testing.T) {
	rt, p := left(t, Offered, PreCopying, Frozen)
	d := testTarget(t).dialer(t, "alpha")
	errs := make(chan error)
	for range 8 {
		go func() { errs <- TakeOver(context.Background(), rt, "web", way(d), quiet) }()
	}
	within(t, "recovering", func() {
		for range 8 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
	if _, err := OpenJournal(p.Dir()); !errors.Is(err, ErrNoJournal) {
		t.Errorf("%v", err)
	}
}

func TestRecoverNothing(t *testing.T) {
	rt, p := testPod(t, "web")
	nobody := func(*Journal) (Dialer, error) { t.Error("somebody was asked"); return nil, nil }
	for _, name := range []string{"web", "missing"} {
		if err := Recover(soon(t), rt, name, nobody, quiet); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for phase, stays := range map[Phase]bool{Prepared: true, Running: false} {
		h := header("target")
		j, err := NewJournal(p.Dir(), h)
		if err != nil {
			t.Fatal(err)
		}
		enter(t, j, Accepted, Receiving, Restoring, Prepared)
		if phase == Running {
			enter(t, j, Running)
		}
		j.Close()
		if err := Recover(soon(t), rt, "web", nobody, quiet); err != nil {
			t.Errorf("%s: %v", phase, err)
		}
		if _, err := OpenJournal(p.Dir()); (err == nil) != stays {
			t.Errorf("the journal of a pod that arrived, in %s: %v", phase, err)
		}
		if stays {
			if err := reopen(t, p.Dir()).Remove(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestForgetKeepsLog puts a pod away that has moved, with its log kept, also when that was done in part before.
func TestForgetKeepsLog(t *testing.T) {
	rt, p := testPod(t, "web")
	j := sourceJournal(t, p, Offered, PreCopying, Frozen, Sent, Committed)
	j.KeepLog = true
	appendTo(t, pod.LogPath(p.Dir()), "hello")
	kept, err := forget(soon(t), p, j)
	if err != nil || kept != rt.Dir("web")+".log" {
		t.Errorf("%q, %v", kept, err)
	}
	if data, err := os.ReadFile(kept); err != nil || string(data) != "hello" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := os.Stat(p.Dir()); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
}

func TestResolve(t *testing.T) {
	ask := func(rt *runtime.Runtime, verdict string) (string, error) {
		return Resolve(soon(t), rt, "web", verdict, quiet)
	}
	committed := []Phase{Offered, PreCopying, Frozen, Sent, Committed}
	for _, tt := range []struct {
		verdict string
		phases  []Phase
		want    string // of the state; empty: an error
	}{
		{"commit", committed, "192.0.2.2"},
		{"abort", committed, "stopped here"},
		{"commit", committed[:4], ""},
		{"abort", committed[:4], "runs here"},
		{"abort", committed[:1], "runs here"},
		{"abort", nil, "runs here"},
		{"abort", []Phase{Offered, Aborted}, "runs here"},
	} {
		rt, p := left(t, tt.phases...)
		state, err := ask(rt, tt.verdict)
		switch {
		case tt.want == "" && err == nil, tt.want != "" && (err != nil || !strings.Contains(state, tt.want)):
			t.Errorf("%s in %v: %q, %v", tt.verdict, tt.phases, state, err)
		case tt.want == "":
			if _, err := OpenJournal(p.Dir()); err != nil {
				t.Errorf("%s in %v: refused, and then: %v", tt.verdict, tt.phases, err)
			}
			continue
		}
		if _, err := OpenJournal(p.Dir()); !errors.Is(err, ErrNoJournal) {
			t.Errorf("%s in %v: %v", tt.verdict, tt.phases, err)
		}
		if _, err := pod.Load(rt, "web"); (err == nil) != (tt.verdict == "abort") {
			t.Errorf("%s in %v: %v", tt.verdict, tt.phases, err)
		}
	}
	rt, _ := testPod(t, "web")
	if _, err := ask(rt, "commit"); !errors.Is(err, ErrNoJournal) {
		t.Errorf("without a move: %v", err)
	}
	if _, err := Resolve(soon(t), rt, "../web", "abort", quiet); err == nil {
		t.Error("a path as name: no error")
	}
}

// TestResolveTarget resolves a pod that was arriving and whose supervisor has died.
func TestResolveTarget(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: looks for cgroups and links")
	}
	rt := runtime.New(t.TempDir(), quiet)
	if err := os.Mkdir(rt.Dir("web"), 0o700); err != nil {
		t.Fatal(err)
	}
	j, err := NewJournal(rt.Dir("web"), header("target"))
	if err != nil {
		t.Fatal(err)
	}
	enter(t, j, Accepted, Receiving, Restoring, Prepared)
	j.Close()
	if _, err := Resolve(soon(t), rt, "web", "commit", quiet); err == nil || !strings.Contains(err.Error(), "abort") {
		t.Errorf("commit: %v", err)
	}
	if state, err := Resolve(soon(t), rt, "web", "abort", quiet); err != nil || !strings.Contains(state, "dropped") {
		t.Errorf("abort: %q, %v", state, err)
	}
	if left, err := os.ReadDir(rt.Root()); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestCallOff ends moves of pods that are to be removed at their source.
func TestCallOff(t *testing.T) {
	for _, tt := range []struct {
		phases []Phase
		told   bool
	}{{[]Phase{Offered}, true}, {[]Phase{Offered, PreCopying, Frozen, Sent}, true}, {[]Phase{Offered, PreCopying, Frozen, Sent, Committed}, false}} {
		rt, _ := left(t, tt.phases...)
		d := testTarget(t).dialer(t, "alpha")
		if err := CallOff(soon(t), rt, "web", way(d), quiet); err != nil || (d.dials.Load() == 1) != tt.told {
			t.Errorf("%v: %v, %d dials", tt.phases, err, d.dials.Load())
		}
		if _, err := pod.Load(rt, "web"); err != nil {
			t.Errorf("%v: the pod is gone: %v", tt.phases, err)
		}
	}
	rt, _ := testPod(t, "web")
	for _, name := range []string{"web", "missing"} {
		if err := CallOff(soon(t), rt, name, way(nil), quiet); err != nil {
			t.Errorf("%s without a move: %v", name, err)
		}
	}
}
