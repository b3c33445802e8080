package migrate

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
)

// died is a target whose machine has lost its power when it held a pod in the phase, before that ran there for good.
func died(t *testing.T, phases ...Phase) *Target {
	t.Helper()
	target := testTarget(t)
	target.abandon(t, phases...)
	return target
}

// abandon leaves a pod that comes from alpha in a phase, with nobody who works on it, and returns its directory.
func (target *Target) abandon(t *testing.T, phases ...Phase) (dir string) {
	t.Helper()
	dir = target.Runtime.Dir("web")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	h := header("target")
	h.Peer = "alpha"
	j, err := NewJournal(dir, h)
	if err != nil {
		t.Fatal(err)
	}
	enter(t, j, phases...)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestRecoverKeepsWhatWasLost recovers moves that were committed to a target that has lost the pod: it is the source's again, which has its files.
func TestRecoverKeepsWhatWasLost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: looks for cgroups and links")
	}
	for name, phases := range map[string][]Phase{
		"it was prepared": {Accepted, Receiving, Restoring, Prepared},
		"it had just run": {Accepted, Receiving, Restoring, Prepared, Running},
	} {
		t.Run(name, func(t *testing.T) {
			target := died(t, phases...)
			rt, p := left(t, Offered, PreCopying, Frozen, Sent, Committed)
			err := Recover(soon(t), rt, "web", way(target.dialer(t, "alpha")), quiet)
			var lost *LostError
			if !errors.As(err, &lost) || lost.Pod != "web" || !strings.Contains(err.Error(), "has died") {
				t.Errorf("%v", err)
			}
			if _, err := OpenJournal(p.Dir()); !errors.Is(err, ErrNoJournal) {
				t.Errorf("the move is not over: %v", err)
			}
			if kept, err := pod.Load(rt, "web"); err != nil || kept.Status() != pod.StatusStopped {
				t.Errorf("the pod is not here, stopped: %v", err)
			}
			target.wantEmpty(t)
		})
	}
}

// TestLostIsWrittenDownFirst has the target go away again before it is told to drop what it has: the next recovery tells it, and does not ask
// what became of the pod.
func TestLostIsWrittenDownFirst(t *testing.T) {
	rt, p := left(t, Offered, PreCopying, Frozen, Sent, Committed)
	brief, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	asked := 0
	d := &dialing{t: t, handle: func(c *stream.Conn) {
		if asked++; asked > 1 {
			return // it hangs up
		}
		if _, err := c.Read(); err == nil {
			_ = c.WriteJSON(frameStatus, status{Phase: Prepared, Lost: true, Error: "died"})
		}
	}}
	err := Recover(brief, rt, "web", way(d), quiet)
	var lost *LostError
	if !errors.As(err, &lost) {
		t.Errorf("%v", err)
	}
	if got := reopen(t, p.Dir()).Phase(); got != Aborted {
		t.Errorf("in phase %s", got)
	}
	if err := Recover(soon(t), rt, "web", way(testTarget(t).dialer(t, "alpha")), quiet); err != nil {
		t.Error(err)
	}
	if _, err := OpenJournal(p.Dir()); !errors.Is(err, ErrNoJournal) {
		t.Errorf("the move is not over: %v", err)
	}
	if kept, err := pod.Load(rt, "web"); err != nil || kept.Status() != pod.StatusStopped {
		t.Errorf("the pod is not here, stopped: %v", err)
	}
}
