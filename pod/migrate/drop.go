package migrate

import (
	"context"
	"errors"
	"os"

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
	if err := pod.CheckName(name); err != nil {
		return err
	}
	cg, err := cgroup.Load(pod.CgroupPath(rt.Root(), name))
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	default:
		if err := errors.Join(cg.Kill(ctx), cg.Delete(ctx)); err != nil {
			return err
		}
	}
	if err := network.RemoveLink(pod.HostLink(rt.Root(), name)); err != nil {
		return err
	}
	return pod.RemoveDir(rt.Dir(name))
}
