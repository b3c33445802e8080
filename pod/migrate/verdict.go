package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
)

// tellSupervisor announces to the pod's supervisor that the pod will be gone
// (peer) or stays (empty).
func (s *Source) tellSupervisor(ctx context.Context, peer string) error {
	if !s.Pod.Supervised() {
		return nil
	}
	_, err := pod.Ask(ctx, s.Pod.Dir(), pod.Request{Op: pod.OpMoved, Peer: peer})
	return err
}

// verdictWithin is how long `zap migrate` itself tries to tell the target that
// the pod is its own, in times of Options.Idle (20 s by default); then the
// guard goes on.
const verdictWithin = 4

// complete makes sure that the target runs the pod and removes it here. The
// decision is made: neither a timeout nor an interrupt ends it.
func (s *Source) complete(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verdictWithin*s.Options.Idle)
	defer cancel()
	cleared := make(chan struct{})
	go func() { // while the target lets it run
		defer close(cleared)
		_ = s.session.Close()
		_ = s.Pod.End(ctx) // leave repeats it, and says what is wrong
	}()
	defer func() { <-cleared }()
	var r running
	if err == nil {
		err = s.control.expect(ctx, frameRunning, &r)
	}
	if err != nil {
		s.emit(Event{Event: "retry", Detail: err.Error()})
		st, derr := deliver(ctx, s.Dialer, s.journal, "commit", s.Log)
		if isLost(derr) {
			<-cleared
			return keepStopped(ctx, s.Pod, s.journal, derr, func(ctx context.Context) error {
				_, err := deliver(ctx, s.Dialer, s.journal, "abort", s.Log)
				return err
			})
		}
		if derr != nil {
			return &UnresolvedError{Pod: s.Pod.ID(), Peer: s.Options.Peer, Err: derr}
		}
		r.HeldFrames = st.HeldFrames
	}
	// The target's word comes when it has written down what runs for a while already.
	s.result.PauseMS = milliseconds(time.Since(s.frozen) - time.Duration(r.Timings["settle"])*time.Microsecond)
	s.result.HeldFrames = r.HeldFrames
	s.timings.add("target_", r.Timings)
	s.timings.mark("running", s.frozen)
	s.result.Bytes, s.result.FileBytes = s.bytes()
	s.result.Result = "migrated"
	<-cleared
	return s.leave(ctx)
}

// leave removes everything of the pod from this host.
func (s *Source) leave(ctx context.Context) error {
	kept, err := forget(ctx, s.Pod, s.journal)
	s.result.Log = kept
	if err != nil {
		return fmt.Errorf("the pod runs on %s; remove what is left of it here: %w", s.Options.Peer, err)
	}
	return s.guard.release()
}

// abort lets the pod go on here and tells the target.
func (s *Source) abort(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	_ = s.awaitSession()
	if s.session != nil {
		_ = s.session.Close()
	}
	_ = s.tellSupervisor(ctx, "")
	if err := resume(ctx, s.Pod, s.journal); err != nil {
		return fmt.Errorf("%w; let the pod go on: %w", cause, err)
	}
	// A target that has not been reached, or has not accepted, has nothing of the pod.
	if s.control != nil && s.control.accepted() {
		if s.tellAbort(ctx) != nil {
			// by the guard, which takes over when this process ends
			return &AbortedError{fmt.Errorf("%w (the target will be told when it answers)", cause)}
		}
	}
	err := errors.Join(cause, s.journal.Remove(), s.guard.release())
	if s.control == nil {
		return err
	}
	return &AbortedError{err}
}

// AbortedError says that a move failed and the pod goes on where it was.
type AbortedError struct{ Err error }

func (e *AbortedError) Error() string { return e.Err.Error() }

func (e *AbortedError) Unwrap() error { return e.Err }

// tellAbort tells the target to drop the pod, on the connection there is or on
// a new one. It is waited for no longer than a silent peer is at any other time: the guard tells it later.
func (s *Source) tellAbort(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, min(tellWithin, s.Options.Idle))
	defer cancel()
	if s.control != nil {
		if s.control.conn.WriteJSON(frameAbort, struct{}{}) == nil && s.control.wait(ctx, frameDiscarded) == nil {
			return nil
		}
	}
	_, err := deliver(ctx, s.Dialer, s.journal, "abort", s.Log)
	return err
}

func (s *Source) close() {
	s.over.Store(true)
	_ = s.awaitSession()
	s.line.drop()
	for _, l := range s.lanes {
		l.drop()
	}
	if s.control != nil {
		s.control.close()
	}
	for _, conn := range []*stream.Conn{s.bulk, s.side} {
		if conn != nil {
			_ = conn.Close()
		}
	}
	if s.session != nil {
		_ = s.session.Close()
	}
	if s.images != nil {
		s.images.Close()
	}
	if s.net != nil {
		_ = s.net.Close()
	}
	if s.guard != nil {
		s.guard.close()
	}
	if s.journal != nil {
		_ = s.journal.Close()
	}
}
