package vm

import (
	"testing"

	"github.com/zap-migrate/zap/e2e"
)

// TestClock moves a program whose threads look at the clock all the time, and so are often in the vDSO, to another kernel and back, twice. CRIU alone loses it
// now and then, and stopping it until no thread is in there, without regard to the handlers of signals, did so each time: after the first move they are in a
// vDSO that is not saved with them.
func TestClock(t *testing.T) {
	l := NewLab(t, "stable", "old")
	machines := l.BootAll(Spec{Name: "stable", Kernel: l.Kernel(Stable)}, Spec{Name: "old", Kernel: l.Kernel(Oldstable)})
	pod := e2e.Pod{Name: l.PodName("clock"), Number: 55, Rootfs: rootfsIn(machines[0], tellerRootfs(t), "teller"), Args: []string{"/bin/teller", "-clock", "4"}}
	machines[0].RunPod(t, pod)
	teller := newListener(t, l.NewClient(), pod.Addr(7100))
	teller.kernels(t)
	for i := range 4 {
		from, to := machines[i%2], machines[(i+1)%2]
		to.Serve(t)
		from.Migrate(t, pod.Name, to.Host, "--idle", patience)
		teller.kernels(t)
	}
}
