package preflight

import (
	"fmt"
	"time"

	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/spec"
)

// settle is how long something that usually passes, such as a message that was not read yet, is given to pass.
const settle = 50 * time.Millisecond

// Inspect looks at the processes of the pod, while they run, and returns every reason why CRIU can't dump them, by process
// and descriptor, in a fixed order; none when it can. What it finds it looks at twice, and what was gone by then does not
// count. pid is the pod's first process on the host; cg is its cgroup. streams are its standard streams as readlink of
// /proc/PID/fd named them when it was created ("pipe:[1234]"); those may lead outside. mounts are the mounts that zap carries
// for CRIU; nil means none.
//
// An error means that the pod could not be looked at, for instance because it has ended.
func Inspect(pid int, cg *cgroup.Cgroup, streams [3]string, mounts *runtime.MountPlan) ([]spec.Blocker, error) {
	first, err := inspect(pid, cg, streams, mounts)
	if err != nil || len(first) == 0 {
		return nil, err
	}
	for _, f := range first {
		if f.passing {
			time.Sleep(settle)
			break
		}
	}
	second, err := inspect(pid, cg, streams, mounts)
	if err != nil {
		return nil, err
	}
	return report(confirm(first, second)), nil
}

// inspect looks once.
func inspect(pid int, cg *cgroup.Cgroup, streams [3]string, mounts *runtime.MountPlan) ([]finding, error) {
	pids, err := cg.Procs()
	if err != nil {
		return nil, fmt.Errorf("inspect pod: %w", err)
	}
	s, err := newScan(pid, pids, streams, mounts)
	if err != nil {
		return nil, fmt.Errorf("inspect pod: %w", err)
	}
	defer s.close()
	if err := s.look(); err != nil {
		return nil, fmt.Errorf("inspect pod: %w", err)
	}
	return s.found, nil
}
