package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
)

// Resolve decides a move by a person's word, on the host where it is called,
// when the other host is lost. It says what became of the pod here.
//
// On the target it lets a prepared pod run, or drops it. On the source it
// removes a pod that was committed, or keeps it, without its processes, which are dead; one that was not committed goes
// on. The person has to decide the same on both hosts: nobody else can.
func Resolve(ctx context.Context, rt *runtime.Runtime, name, verdict string, log *slog.Logger) (string, error) {
	if err := pod.CheckID(name); err != nil {
		return "", err
	}
	dir := filepath.Join(rt.Root(), name)
	j, err := OpenJournal(dir)
	if err != nil {
		return "", fmt.Errorf("pod %s: %w", name, err)
	}
	defer j.Close()
	if j.Side == "target" {
		return resolveTarget(ctx, rt, j, verdict)
	}
	brief, cancel := context.WithTimeout(ctx, resolveWithin)
	defer cancel()
	if err := j.lock(brief); err != nil {
		return "", fmt.Errorf("pod %s: %w", name, err)
	}
	p, err := pod.Load(rt, name)
	if err != nil {
		return "", err
	}
	return resolveSource(ctx, p, j, verdict, log)
}

// resolveWithin is how long a person waits for a recovery's step to end.
const resolveWithin = 5 * time.Second

func resolveTarget(ctx context.Context, rt *runtime.Runtime, j *Journal, verdict string) (string, error) {
	op, state := pod.OpCommit, "runs here"
	if verdict == "abort" {
		op, state = pod.OpAbort, "dropped, nothing of it is left here"
	}
	_, err := pod.Ask(ctx, rt.Dir(j.Pod), pod.Request{Op: op, Migration: j.Migration})
	switch {
	case err == nil:
		return state, nil
	case errors.Is(err, pod.ErrNoSupervisor) && verdict == "abort":
		return state, Drop(ctx, rt, j.Pod)
	case errors.Is(err, pod.ErrNoSupervisor):
		return "", fmt.Errorf("pod %s: the process that held it has died, it can't run here; resolve with abort", j.Pod)
	}
	return "", fmt.Errorf("pod %s: %w", j.Pod, err)
}

func resolveSource(ctx context.Context, p *pod.Pod, j *Journal, verdict string, log *slog.Logger) (string, error) {
	decided := j.Phase().Decided()
	switch {
	case verdict == "commit" && decided:
		if _, err := forget(ctx, p, j); err != nil {
			return "", err
		}
		return "runs on " + j.Peer + ", nothing of it is left here", nil
	case verdict == "abort" && !decided:
		if p.Supervised() {
			if _, err := pod.Ask(ctx, p.Dir(), pod.Request{Op: pod.OpMoved}); err != nil {
				log.Warn("tell the pod's supervisor", "pod", p.ID(), "error", err.Error())
			}
		}
		if err := resume(ctx, p, j); err != nil {
			return "", err
		}
		return "runs here", j.Remove()
	case decided: // the target's host never comes back
		if err := stay(ctx, p, j); err != nil {
			return "", err
		}
		return "has stopped here, with the files that it had when it was frozen", j.Remove()
	default:
		return "", errors.New("pod " + p.ID() + ": it was not committed, the target can't run it; resolve with abort")
	}
}
