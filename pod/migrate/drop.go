package migrate

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/cgroup"
)

// Drop removes what is left on this host of a pod that was moving in and whose
// supervisor has died: its processes, which nobody lets run, its cgroup, its
// link and its directory. It knows them by the pod's name, which the directory
// reserves, and can be repeated.
func Drop(ctx context.Context, rt *runtime.Runtime, name string) error {
	if err := pod.CheckID(name); err != nil {
		return err
	}
	cg, err := cgroup.Load(pod.CgroupPath(rt.Root(), name))
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	default:
		abandonNetwork(cg)
		if err := errors.Join(cg.Kill(ctx), cg.Delete(ctx)); err != nil {
			return err
		}
	}
	if err := network.RemoveLink(pod.HostLink(rt.Root(), name)); err != nil {
		return err
	}
	return pod.RemoveDir(rt.Dir(name))
}

// abandonNetwork lets the network namespace of a pod that is about to be killed
// end soon; the supervisor, which holds it, would have done so.
func abandonNetwork(cg *cgroup.Cgroup) {
	pids, err := cg.Procs()
	if err != nil {
		return
	}
	for _, pid := range pids {
		if n, err := network.FromPID(pid); err == nil {
			_ = errors.Join(n.Abandon(), n.Close()) // it ends later then
			return
		}
	}
}

// Sweep removes what moves left behind that did not come to their end before a
// crash: pods that never were prepared, half layers, half removed directories.
func (t *Target) Sweep(ctx context.Context) error {
	root := t.Runtime.Root()
	entries, err := os.ReadDir(root)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() && pod.CheckID(e.Name()) == nil {
			errs = append(errs, t.sweepPod(ctx, e.Name()))
		}
	}
	errs = append(errs, pod.SweepRemoved(root), sweepLayers(layersDir(root)))
	return errors.Join(errs...)
}

// sweepPod removes a pod's directory if it is that of a pod that was moving in
// and that nobody works on any more.
func (t *Target) sweepPod(ctx context.Context, name string) error {
	dir := t.Runtime.Dir(name)
	brief, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	j, err := LockJournal(brief, dir)
	if errors.Is(err, ErrNoJournal) {
		return sweepUnborn(dir)
	}
	if errors.Is(err, ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer j.Close()
	if j.Side != "target" || j.Phase() == Prepared || j.Phase() == Running || supervisorLives(ctx, dir) {
		return nil
	}
	t.Log.Info("remove the rest of a move", "pod", j.Pod, "phase", string(j.Phase()))
	return Drop(ctx, t.Runtime, name)
}

// sweepUnborn removes a pod's directory in which nothing but the beginning of a
// journal is.
func sweepUnborn(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return err // an empty one is a pod's that is being made
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "."+JournalName+"-") {
			return nil
		}
	}
	return os.RemoveAll(dir)
}

func supervisorLives(ctx context.Context, dir string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := pod.Ask(ctx, dir, pod.Request{Op: pod.OpStatus})
	return err == nil
}
