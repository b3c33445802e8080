package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/spec"
)

// controlled is the source's end of a control connection, and the target's.
func controlled(t *testing.T) (*control, *stream.Conn, *[]Phase) {
	t.Helper()
	noLeaks(t)
	near, far := pair(t)
	var phases []Phase
	c := newControl(context.Background(), near, patience, func(p Phase) { phases = append(phases, p) })
	t.Cleanup(c.close)
	return c, far, &phases
}

func write(t *testing.T, c *stream.Conn, typ uint8, document any) {
	t.Helper()
	if err := c.WriteJSON(typ, document); err != nil {
		t.Fatal(err)
	}
}

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestControl(t *testing.T) {
	c, target, phases := controlled(t)
	if c.accepted() || c.cause() != nil {
		t.Errorf("at first: %v, %v", c.accepted(), c.cause())
	}
	write(t, target, framePhase, phaseNote{Accepted})
	write(t, target, frameAccept, accept{Token: "x"})
	if err := target.WriteData(0x99, []byte("a frame of a later version")); err != nil {
		t.Fatal(err)
	}
	var a accept
	if err := c.expect(soon(t), frameAccept, &a); err != nil || a.Token != "x" || !c.accepted() {
		t.Errorf("%+v, %v", a, err)
	}
	// A frame may come long before it is waited for.
	write(t, target, frameReady, nil)
	write(t, target, frameAnnounced, nil)
	write(t, target, framePrepared, prepared{Timings: map[string]int64{"restore": 7}})
	var p prepared
	if err := c.expect(soon(t), framePrepared, &p); err != nil || p.Timings["restore"] != 7 {
		t.Errorf("%+v, %v", p, err)
	}
	if err := c.wait(soon(t), frameReady); err != nil {
		t.Error(err)
	}
	brief, cancel := context.WithTimeoutCause(context.Background(), time.Millisecond, errors.New("in a hurry"))
	defer cancel()
	if err := c.wait(brief, frameRunning); err == nil || err.Error() != "in a hurry" {
		t.Errorf("%v", err)
	}
	write(t, target, frameConfirmed, nil)
	write(t, target, frameRunning, running{HeldFrames: 3})
	var r running
	if err := c.expect(soon(t), frameRunning, &r); err != nil || r.HeldFrames != 3 || c.cause() != nil {
		t.Errorf("%+v, %v, %v", r, err, c.cause())
	}
	if len(*phases) != 1 || (*phases)[0] != Accepted {
		t.Errorf("phases %v", *phases)
	}
}

// TestControlOutOfTurn has a target say what it can't mean.
func TestControlOutOfTurn(t *testing.T) {
	for name, tt := range map[string]struct {
		say  func(t *testing.T, target *stream.Conn)
		want string
	}{
		"prepared at once":   {func(t *testing.T, c *stream.Conn) { write(t, c, framePrepared, nil) }, "out of turn"},
		"accepted twice":     {func(t *testing.T, c *stream.Conn) { write(t, c, frameAccept, nil); write(t, c, frameAccept, nil) }, "out of turn"},
		"running too early":  {func(t *testing.T, c *stream.Conn) { write(t, c, frameAccept, nil); write(t, c, frameRunning, nil) }, "out of turn"},
		"a source's frame":   {func(t *testing.T, c *stream.Conn) { write(t, c, frameCommit, nil) }, "out of turn"},
		"an unknown frame":   {func(t *testing.T, c *stream.Conn) { write(t, c, 0x3f, nil) }, "out of turn"},
		"data":               {func(t *testing.T, c *stream.Conn) { _ = c.WriteData(frameAccept, []byte("{}")) }, "data"},
		"an invented phase":  {func(t *testing.T, c *stream.Conn) { write(t, c, framePhase, phaseNote{"\x1b[2J"}) }, `\x1b`},
		"a phase of ours":    {func(t *testing.T, c *stream.Conn) { write(t, c, framePhase, phaseNote{Committed}) }, "Committed"},
		"a phase as number":  {func(t *testing.T, c *stream.Conn) { write(t, c, framePhase, 7) }, "decode"},
		"a rejection as one": {func(t *testing.T, c *stream.Conn) { write(t, c, frameReject, 7) }, "decode"},
		"the end":            {func(_ *testing.T, c *stream.Conn) { c.Close() }, "EOF"},
		"half a frame": {func(_ *testing.T, c *stream.Conn) {
			_, _ = c.NetConn().Write([]byte{frameAccept, 1, 0})
			c.NetConn().Close()
		}, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			c, target, _ := controlled(t)
			lost := make(chan error, 1)
			c.onLost(func(err error) { lost <- err })
			tt.say(t, target)
			err := c.wait(soon(t), framePrepared)
			if name == "accepted twice" || name == "running too early" {
				err = <-lost
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v", err)
			}
			again := make(chan error, 1)
			c.onLost(func(err error) { again <- err }) // who comes late is told at once
			if e := <-again; e == nil || c.cause() == nil {
				t.Errorf("%v, %v", e, c.cause())
			}
		})
	}
}

func TestControlDecodes(t *testing.T) {
	c, target, _ := controlled(t)
	write(t, target, frameAccept, "not an object")
	var a accept
	if err := c.expect(soon(t), frameAccept, &a); err == nil || !strings.Contains(err.Error(), "decode") {
		t.Errorf("%v", err)
	}
}

// TestControlFailed has a target give up: what it says comes before what breaks because of it.
func TestControlFailed(t *testing.T) {
	c, target, _ := controlled(t)
	write(t, target, frameAccept, nil)
	if err := c.wait(soon(t), frameAccept); err != nil {
		t.Fatal(err)
	}
	broken := fmt.Errorf("send memory: %w", &net.OpError{Op: "write", Err: os.ErrClosed})
	time.AfterFunc(10*time.Millisecond, func() { _ = target.WriteJSON(frameFailed, failed{Reason: "disk full\x1b]0;x\a"}) })
	err := c.explain(broken)
	if err == nil || !strings.Contains(err.Error(), "disk full") || strings.ContainsAny(err.Error(), "\x1b\a") {
		t.Errorf("%q", err)
	}
	if c.accepted() {
		t.Error("a target that has failed has nothing of the pod")
	}
	own := errors.New("no such file")
	if got := c.explain(fmt.Errorf("%w: %w", own, c.cause())); !errors.Is(got, own) {
		t.Errorf("what says it already became %v", got)
	}
}

func TestControlExplains(t *testing.T) {
	var none *control
	own := errors.New("no such file")
	if err := none.explain(own); err != own {
		t.Errorf("without a connection: %v", err)
	}
	c, _, _ := controlled(t)
	if err := c.explain(own); err != own {
		t.Errorf("what is no connection's: %v", err)
	}
	if err := c.explain(io.ErrUnexpectedEOF); err != io.ErrUnexpectedEOF {
		t.Errorf("when the peer says nothing: %v", err)
	}
}

func TestControlRejected(t *testing.T) {
	c, target, _ := controlled(t)
	many := make([]spec.Blocker, 3*maxBlockers)
	for i := range many {
		many[i] = spec.Blocker{Code: "name", Subject: "web", Detail: "taken\x1b[31m", Hint: "choose"}
	}
	write(t, target, frameReject, reject{Blockers: many})
	err := c.wait(soon(t), frameAccept)
	var rejected *RejectedError
	if !errors.As(err, &rejected) || len(rejected.Blockers) != maxBlockers || strings.Contains(err.Error(), "\x1b") {
		t.Fatalf("%.300q", err)
	}
	if !strings.Contains(err.Error(), "\n  name web: taken") || c.accepted() {
		t.Errorf("%.100q", err)
	}
}

// TestFirstCause wants the reason, of all that went wrong, and not its consequences.
func TestFirstCause(t *testing.T) {
	c, target, _ := controlled(t)
	cause, sending, dump := errors.New("callback"), errors.New("connection"), errors.New("criu")
	own := &criu.Error{Verb: "dump", Cause: "io_uring is not supported"}
	memory := func(err error) chan error {
		m := make(chan error, 1)
		if err != nil {
			m <- err
		}
		return m
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	for i, tt := range []struct{ cause, sending, dump, want error }{
		{cause, sending, dump, cause}, {nil, sending, dump, sending}, {nil, nil, dump, dump}, {nil, sending, own, own},
	} {
		if err := firstCause(ctx, tt.cause, tt.dump, memory(tt.sending), c); err != tt.want {
			t.Errorf("%d: %v, want %v", i, err, tt.want)
		}
	}
	if err := firstCause(ctx, nil, nil, memory(nil), nil); err == nil {
		t.Error("a dump that nobody decided about is no error")
	}
	write(t, target, frameFailed, failed{Reason: "no memory"})
	_ = c.wait(soon(t), frameAccept)
	if err := firstCause(ctx, nil, dump, memory(sending), c); err == nil || !strings.Contains(err.Error(), "no memory") {
		t.Errorf("%v", err)
	}
	cancel(errors.New("interrupted"))
	if err := firstCause(ctx, cause, dump, memory(sending), c); err == nil || err.Error() != "interrupted" {
		t.Errorf("%v", err)
	}
}

// TestAhead wants only a restore that failed at the target to be a reason to move again without memory ahead.
func TestAhead(t *testing.T) {
	said := func(stage string) error {
		return fmt.Errorf("restore the pod: %w", &supervisorError{pod.ArrivalWord{Word: pod.ArrivalFailed, Error: "criu: restore process tree: why", Stage: stage}})
	}
	for _, c := range []struct {
		err    error
		rounds int
		want   bool
	}{
		{said(pod.StageRestore), 1, true},
		{said(pod.StageRestore), 0, false}, // no memory went ahead
		{said(""), 1, false},
		{errors.New("restore process tree"), 1, false},
	} {
		ctl, target, _ := controlled(t)
		write(t, target, frameFailed, failureOf(c.err))
		err := ctl.wait(soon(t), frameAccept)
		s := &Source{}
		s.result.Rounds = make([]RoundReport, c.rounds)
		if got := s.Ahead(err); got != c.want || err == nil || !strings.Contains(err.Error(), c.err.Error()) {
			t.Errorf("%v after %d rounds: %v is %t", c.err, c.rounds, err, got)
		}
	}
}

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "plain, ä and 世": "plain, ä and 世", "two\nlines\tand": "two\nlines\tand", "\x1b[31mred\x07\r": "�[31mred��", "bad \xff": "bad �",
		"\u202egnp.exe": "�gnp.exe",
	} {
		if got := printable(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := printable(strings.Repeat("x", 1<<20)); len(got) > 10<<10 {
		t.Errorf("%d bytes", len(got))
	}
}
