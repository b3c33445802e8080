package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/spec"
)

// Target takes pods in. One Target serves all connections of a `zap serve`.
type Target struct {
	Runtime  *runtime.Runtime
	Binary   *criu.Binary
	CacheDir string
	Host     string
	Idle     time.Duration
	// HoldBytes bounds the frames kept for a pod during its pause.
	HoldBytes int64
	Log       *slog.Logger

	mu    sync.Mutex
	moves map[string]*incoming // by token
}

// Handle speaks with one connection of an authenticated peer, whose first
// frame says what it is for, until it is over.
func (t *Target) Handle(ctx context.Context, conn *stream.Conn, from string) error {
	conn.SetIdle(t.Idle)
	f, err := conn.Read()
	if err != nil {
		return err
	}
	switch f.Type {
	case frameOffer:
		var o Offer
		if err := f.JSON(&o); err != nil {
			return err
		}
		return t.take(ctx, conn, from, &o)
	case frameAttach:
		var a attach
		if err := f.JSON(&a); err != nil {
			return err
		}
		return t.attach(ctx, conn, &a)
	case frameQuery:
		var q query
		if err := f.JSON(&q); err != nil {
			return err
		}
		return conn.WriteJSON(frameStatus, t.answer(ctx, &q))
	default:
		return fmt.Errorf("%s began with frame %#02x", conn, f.Type)
	}
}

// attach gives a bulk connection to the move that it belongs to.
func (t *Target) attach(ctx context.Context, conn *stream.Conn, a *attach) error {
	if a.Lane < 0 || a.Lane >= laneCount {
		return fmt.Errorf("%s: lane %d is unknown", conn, a.Lane)
	}
	t.mu.Lock()
	in := t.moves[a.Token]
	taken := in == nil || in.came[a.Lane]
	if !taken {
		in.came[a.Lane] = true
		if !slices.Contains(in.came[:], false) {
			delete(t.moves, a.Token) // it has served
		}
	}
	t.mu.Unlock()
	if taken {
		return fmt.Errorf("%s: no move waits for the token that it shows", conn)
	}
	in.laneCame <- laneConn{a.Lane, conn}
	select {
	case <-in.over:
	case <-ctx.Done():
	}
	return nil
}

// take looks at an offer and, if nothing speaks against it, takes the pod in.
func (t *Target) take(ctx context.Context, conn *stream.Conn, from string, o *Offer) error {
	if err := checkOffer(o); err != nil {
		return errors.Join(err, conn.WriteJSON(frameFailed, failed{Reason: err.Error()}))
	}
	blockers, missing, err := t.examine(ctx, o)
	if err != nil {
		return errors.Join(err, conn.WriteJSON(frameFailed, failed{Reason: err.Error()}))
	}
	if len(blockers) > 0 {
		return conn.WriteJSON(frameReject, reject{Blockers: blockers})
	}
	if o.Check {
		return conn.WriteJSON(frameAccept, accept{Missing: missing, Host: t.Host})
	}
	in := &incoming{
		target: t, conn: conn, offer: o, from: from, dir: filepath.Join(t.Runtime.Root(), o.Pod), missing: missing,
		token: pod.NewUID(), failures: make(chan pod.ArrivalWord, 1), laneCame: make(chan laneConn, laneCount), over: make(chan struct{}), log: t.Log.With("pod", o.Pod, "from", from),
	}
	defer close(in.over)
	err = in.run(ctx)
	if err != nil && in.phase() != Prepared {
		in.log.Warn("the pod did not arrive", "error", err.Error())
		werr := conn.WriteJSON(frameFailed, failed{Reason: err.Error()})
		if errors.Is(err, errAborted) {
			werr = conn.WriteJSON(frameDiscarded, struct{}{})
		}
		return errors.Join(err, werr)
	}
	return err
}

// checkOffer refuses what no honest source sends.
func checkOffer(o *Offer) error {
	if err := pod.CheckID(o.Pod); err != nil {
		return err
	}
	switch {
	case len(o.Migration) != 32:
		return fmt.Errorf("offer of pod %s: its move has no name", o.Pod)
	case o.Manifest == nil || o.Bundle == nil || o.Bundle.Spec == nil || o.Bundle.Spec.Linux == nil || o.Bundle.Spec.Root == nil:
		return fmt.Errorf("offer of pod %s: it has no manifest or bundle", o.Pod)
	case len(o.Mounts.Trees)+len(o.Mounts.Binds) > 10_000:
		return fmt.Errorf("offer of pod %s: %d mounts", o.Pod, len(o.Mounts.Trees)+len(o.Mounts.Binds))
	}
	if o.Network != nil {
		if err := o.Network.Validate(); err != nil {
			return fmt.Errorf("offer of pod %s: %w", o.Pod, err)
		}
	}
	return spec.Validate(o.Bundle.Spec)
}

// answer tells a source that has lost its connection what became of its move,
// and carries out the verdict that it brings.
func (t *Target) answer(ctx context.Context, q *query) *status {
	if pod.CheckID(q.Pod) != nil || len(q.Migration) != 32 {
		return &status{Error: "malformed query"}
	}
	dir := filepath.Join(t.Runtime.Root(), q.Pod)
	op := pod.OpArrival
	switch q.Verdict {
	case "commit":
		op = pod.OpCommit
	case "abort":
		op = pod.OpAbort
	}
	a, err := pod.Ask(ctx, dir, pod.Request{Op: op, Migration: q.Migration})
	switch {
	case err == nil:
		phase := Phase(a.Phase)
		if op == pod.OpAbort {
			phase = Discarded
		}
		return &status{Phase: phase, HeldFrames: a.HeldFrames}
	case errors.Is(err, pod.ErrNoSupervisor):
		return t.answerFromDisk(dir, q)
	default:
		return &status{Error: err.Error()}
	}
}

// answerFromDisk knows the moves that nobody works on any more.
func (t *Target) answerFromDisk(dir string, q *query) *status {
	j, err := OpenJournal(dir)
	if errors.Is(err, ErrNoJournal) {
		return &status{Phase: Discarded}
	}
	if err != nil {
		return &status{Error: err.Error()}
	}
	defer j.Close()
	if j.Migration != q.Migration || j.Side != "target" {
		return &status{Phase: Discarded}
	}
	if q.Verdict == "abort" {
		_ = os.RemoveAll(dir)
		return &status{Phase: Discarded}
	}
	return &status{Phase: j.Phase(), Error: "the process that held the pod has died"}
}

// Sweep removes what moves left behind that did not come to their end before a
// crash: directories of pods that never were prepared, and half layers.
func (t *Target) Sweep() error {
	entries, err := os.ReadDir(t.Runtime.Root())
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(t.Runtime.Root(), e.Name())
		j, err := OpenJournal(dir)
		if err != nil {
			continue
		}
		j.Close()
		if j.Side != "target" || j.Phase() == Prepared || j.Phase() == Running || supervisorLives(dir) {
			continue
		}
		t.Log.Info("remove the rest of a move", "pod", j.Pod, "phase", string(j.Phase()))
		errs = append(errs, os.RemoveAll(dir))
	}
	errs = append(errs, sweepLayers(layersDir(t.Runtime.Root())))
	return errors.Join(errs...)
}

func supervisorLives(dir string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err := pod.Ask(ctx, dir, pod.Request{Op: pod.OpStatus})
	return err == nil
}
