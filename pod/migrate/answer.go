package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/zap-migrate/zap/pod"
)

// answer tells a source that has lost its connection what became of its move,
// and carries out the verdict that it brings.
func (t *Target) answer(ctx context.Context, from string, q *query) *status {
	if pod.CheckID(q.Pod) != nil || !patterns().id.MatchString(q.Migration) {
		return &status{Error: "malformed query"}
	}
	op := pod.OpArrival
	switch q.Verdict {
	case "":
	case "commit":
		op = pod.OpCommit
	case "abort":
		op = pod.OpAbort
		t.callOff(ctx, from, q)
	default:
		return &status{Error: "malformed query"}
	}
	if err := t.checkAsker(from, q); err != nil {
		return &status{Error: err.Error()}
	}
	a, err := pod.Ask(ctx, t.Runtime.Dir(q.Pod), pod.Request{Op: op, Migration: q.Migration})
	switch {
	case err == nil:
		phase := Phase(a.Phase)
		if op == pod.OpAbort {
			phase = Discarded
		}
		return &status{Phase: phase, HeldFrames: a.HeldFrames}
	case errors.Is(err, pod.ErrNoSupervisor):
		return t.answerFromDisk(ctx, q)
	default:
		return &status{Error: err.Error()}
	}
}

// callOff ends a move that this process works on, whatever it is doing, and
// waits until nothing is left of it.
func (t *Target) callOff(ctx context.Context, from string, q *query) {
	t.mu.Lock()
	in := t.pods[q.Pod]
	t.mu.Unlock()
	if in == nil || in.from != from || in.offer.Migration != q.Migration {
		return
	}
	in.cancel(errAborted)
	select {
	case <-in.over:
	case <-ctx.Done():
	}
}

// checkAsker wants a verdict to come from the host that the pod comes from.
func (t *Target) checkAsker(from string, q *query) error {
	j, err := OpenJournal(t.Runtime.Dir(q.Pod))
	if err != nil {
		return nil // the pod runs, or there is none: nothing can be decided any more
	}
	defer j.Close()
	if j.Side == "target" && j.Migration == q.Migration && j.Peer != from {
		return fmt.Errorf("the pod comes from %s, not from %s", j.Peer, from)
	}
	return nil
}

// answerFromDisk knows the moves that nobody works on any more.
func (t *Target) answerFromDisk(ctx context.Context, q *query) *status {
	locking, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	j, err := LockJournal(locking, t.Runtime.Dir(q.Pod))
	if errors.Is(err, ErrNoJournal) {
		return t.answerFromRecord(q)
	}
	if err != nil {
		return &status{Error: err.Error()}
	}
	defer j.Close()
	switch {
	case j.Migration != q.Migration || j.Side != "target":
		return &status{Phase: Discarded}
	case j.Phase() == Running && t.recorded(q):
		return &status{Phase: Running} // it ran here, and has ended
	case q.Verdict == "abort":
		if err := Drop(ctx, t.Runtime, q.Pod); err != nil {
			return &status{Error: err.Error()}
		}
		return &status{Phase: Discarded}
	}
	return &status{Phase: j.Phase(), Lost: true, Error: "the process that held the pod has died"}
}

// answerFromRecord knows the pods that have arrived and ended since.
func (t *Target) answerFromRecord(q *query) *status {
	if t.recorded(q) {
		return &status{Phase: Running}
	}
	return &status{Phase: Discarded}
}

// recorded says whether the pod has arrived for good: it and its files outlast a crash of this host then.
func (t *Target) recorded(q *query) bool {
	p, err := pod.Load(t.Runtime, q.Pod)
	return err == nil && p.Record.Migration == q.Migration
}
