package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
)

const (
	callOffWithin = 30 * time.Second // for a coordinator to let the pod go on
	tellWithin    = 5 * time.Second  // for the target to be told
)

// CallOff ends the move of a pod on this host because the pod shall be removed
// here. What was arriving is gone then; what was leaving is here still, unless it
// has been given away. It is no error if there is no move.
func CallOff(ctx context.Context, rt *runtime.Runtime, name string, dial func(*Journal) (Dialer, error), log *slog.Logger) error {
	if err := pod.CheckID(name); err != nil {
		return err
	}
	j, err := OpenJournal(rt.Dir(name))
	if errors.Is(err, ErrNoJournal) {
		return nil
	}
	if err != nil {
		return err
	}
	defer j.Close()
	if j.Side == "target" {
		return callOffArrival(ctx, rt, j)
	}
	ctx, cancel := context.WithTimeout(ctx, callOffWithin)
	defer cancel()
	brief, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	if err = j.lock(brief); errors.Is(err, ErrBusy) {
		if j.Coordinator.Alive() {
			_ = unix.Kill(j.Coordinator.Pid, unix.SIGTERM)
		}
		err = j.lock(ctx)
	}
	if errors.Is(err, ErrNoJournal) || err == nil && j.Phase().Decided() {
		return nil
	}
	if err != nil {
		return err
	}
	p, err := pod.Load(rt, name)
	if err != nil {
		return err
	}
	r := &recovery{pod: p, journal: j, log: log}
	if r.dialer, err = dial(j); err != nil {
		r.dialer = lost{err}
	}
	telling, cancel := context.WithTimeout(ctx, tellWithin)
	defer cancel()
	if err := r.undo(telling); err != nil {
		log.Warn("call the move off", "pod", name, "error", err.Error())
	}
	return nil
}

func callOffArrival(ctx context.Context, rt *runtime.Runtime, j *Journal) error {
	if j.Phase() == Running {
		return nil
	}
	_, err := pod.Ask(ctx, rt.Dir(j.Pod), pod.Request{Op: pod.OpAbort, Migration: j.Migration})
	if !errors.Is(err, pod.ErrNoSupervisor) {
		return err
	}
	brief, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	switch err := j.lock(brief); {
	case errors.Is(err, ErrNoJournal):
		return nil
	case errors.Is(err, ErrBusy):
		return fmt.Errorf("%w: end it on %s, where the pod is", err, j.Peer)
	case err != nil:
		return err
	}
	return Drop(ctx, rt, j.Pod)
}
