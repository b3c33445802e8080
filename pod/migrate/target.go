package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/runtime"
)

// Target takes pods in. One Target serves all connections of a `zap serve`.
type Target struct {
	Runtime  *runtime.Runtime
	Binary   *criu.Binary
	CacheDir string
	Flags    []string // of this program, for the supervisors that it starts: --root and where to log
	Host     string
	Idle     time.Duration
	// HoldBytes bounds the frames kept for a pod during its pause.
	HoldBytes int64
	Log       *slog.Logger

	kernel kernelParts

	mu    sync.Mutex
	moves map[string]*incoming // by token, those whose bulk connections have not all come
	pods  map[string]*incoming // by the pod's name, all
	spare *supervisor          // waits for a job; nil if there is none
}

// firstWithin is how long a peer may take to say what its connection is for, and to come for the bulk once it was accepted.
const firstWithin = 20 * time.Second

// Handle speaks with one connection of an authenticated peer, whose first
// frame says what it is for, until it is over.
func (t *Target) Handle(ctx context.Context, conn *stream.Conn, from string) error {
	conn.SetIdle(t.Idle)
	defer t.warm()()
	first, cancel := context.WithTimeoutCause(ctx, firstWithin, errors.New("it did not say what it wants"))
	defer cancel()
	release := conn.Watch(first)
	f, err := conn.Read()
	if late := release(); err == nil {
		err = late
	}
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
		return t.attach(ctx, conn, from, &a)
	case frameQuery:
		var q query
		if err := f.JSON(&q); err != nil {
			return err
		}
		return conn.WriteJSON(frameStatus, t.answer(ctx, from, &q))
	default:
		return fmt.Errorf("%s began with frame %#02x", conn, f.Type)
	}
}

// attach gives a bulk connection to the move that it belongs to.
func (t *Target) attach(ctx context.Context, conn *stream.Conn, from string, a *attach) error {
	if a.Lane < 0 || a.Lane >= laneCount {
		return fmt.Errorf("%s: lane %d is unknown", conn, a.Lane)
	}
	t.mu.Lock()
	in := t.moves[a.Token]
	taken := in == nil || in.from != from || in.came[a.Lane]
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
		return errors.Join(err, conn.WriteJSON(frameFailed, failureOf(err)))
	}
	layers, err := lockLayers(ctx, t.Runtime.Root(), false)
	if err != nil {
		return errors.Join(err, conn.WriteJSON(frameFailed, failureOf(err)))
	}
	defer layers.Close()
	blockers, missing, err := t.examine(ctx, o)
	if err != nil {
		return errors.Join(err, conn.WriteJSON(frameFailed, failureOf(err)))
	}
	if len(blockers) > 0 {
		return conn.WriteJSON(frameReject, reject{Blockers: blockers})
	}
	if o.Check {
		return conn.WriteJSON(frameAccept, accept{Missing: missing, Host: t.Host})
	}
	in := newIncoming(t, conn, from, o, missing)
	defer close(in.over)
	err = in.run(ctx)
	if err != nil && in.phase() != Prepared {
		in.log.Warn("the pod did not arrive", "error", err.Error())
		var werr error
		if errors.Is(err, errAborted) {
			werr = conn.WriteJSON(frameDiscarded, struct{}{})
		} else {
			werr = conn.WriteJSON(frameFailed, failureOf(err))
		}
		return errors.Join(err, werr)
	}
	return err
}
