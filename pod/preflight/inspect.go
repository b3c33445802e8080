package preflight

import (
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/spec"
)

// Inspect looks at the processes of the pod, while they run, and returns every
// reason why CRIU can't dump them, by process and descriptor; none when it can.
// pid is the pod's first process on the host, streams are its standard streams
// as readlink of /proc/PID/fd named them when it was created ("pipe:[1234]"),
// which may lead outside, and mounts are the mounts of the pod that zap carries.
// An error means that the pod could not be looked at.
func Inspect(pid int, cg *cgroup.Cgroup, streams [3]string, mounts *runtime.MountPlan) ([]spec.Blocker, error) {
	return nil, nil
}
