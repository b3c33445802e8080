package vm

import (
	"slices"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
)

// patience is how long the two sides of a move may be silent: in emulation, on a busy machine, seconds mean nothing.
const patience = "60s"

// rootfsIn copies a root file system that this machine's programs made up into the guest.
func rootfsIn(m *Machine, dir, name string) string {
	m.t.Helper()
	to := "/data/rootfs/" + name
	m.Copy(dir, to)
	return to
}

// tellerRootfs has the teller.
func tellerRootfs(t *testing.T) string {
	return e2e.ProgramRootfs(t, "teller", e2e.Build(t, "teller", "github.com/zap-migrate/zap/e2e/vm/testdata/teller"))
}

// downloadSize is the size of what nginx serves, which goes over at downloadRate bytes a second, in the background of all moves.
const (
	downloadSize = 24 << 20
	downloadRate = 100 << 10
)

// TestKernels moves three pods between machines with three kernels, from each to each, while their clients go on; in the end the machine
// that they left last is killed.
func TestKernels(t *testing.T) {
	l := NewLab(t, "old", "stable", "newest")
	machines := l.BootAll(
		Spec{Name: "old", Kernel: l.Kernel(Oldstable), Criu: CriuUpcoming},
		Spec{Name: "stable", Kernel: l.Kernel(Stable), Criu: CriuUpcoming},
		Spec{Name: "newest", Kernel: l.Kernel(Newest), Criu: CriuUpcoming},
	)
	for _, m := range machines {
		m.Serve(t)
	}
	old, stable, newest := machines[0], machines[1], machines[2]
	client := l.NewClient()
	nginx, sum := e2e.NginxRootfs(t, downloadSize)
	pods := []e2e.Pod{
		{Name: l.PodName("redis"), Number: 50, Rootfs: rootfsIn(old, e2e.RedisRootfs(t), "redis"), Args: e2e.RedisArgs()},
		{Name: l.PodName("nginx"), Number: 51, Rootfs: rootfsIn(old, nginx, "nginx"), Args: []string{"/usr/sbin/nginx", "-c", "/etc/nginx.conf"}},
		{Name: l.PodName("teller"), Number: 52, Rootfs: rootfsIn(old, tellerRootfs(t), "teller"), Args: []string{"/bin/teller"}},
	}
	for _, p := range pods {
		old.RunPod(t, p)
	}
	e2e.FillRedis(t, client, pods[0].Addr(6379), 5<<20)
	counter := e2e.NewCounter(t, client, pods[0].Addr(6379), "n", 5*time.Millisecond)
	download := e2e.StartDownload(t, client, pods[1].Addr(80), "/big", downloadRate)
	teller := newListener(t, client, pods[2].Addr(7100))

	route := []*Machine{old, stable, newest, old, newest, stable, old} // every pair, both directions
	want := []string{old.Spec.Kernel.Release}
	for i, to := range route[1:] {
		from := route[i]
		for _, p := range pods {
			final := from.Migrate(t, p.Name, to.Host, "--idle", patience)
			t.Logf("%s: %s to %s: pause %.0f ms, total %.0f ms, %d KiB", p.Name, from.Spec.Kernel.Release, to.Spec.Kernel.Release,
				final.PauseMS, final.TotalMS, final.Bytes>>10)
		}
		if to == old && i == len(route)-2 {
			from.Kill() // nothing of the pods needs the machine that they have left
		}
		counter.WantProgress(t)
		want = append(want, to.Spec.Kernel.Release)
		if got := teller.kernels(t); !slices.Equal(got, want) {
			t.Errorf("the kernels that answered are %v, not %v", got, want)
		}
		t.Logf("the teller's client waited %v at most", teller.pause().Round(time.Millisecond))
	}
	if got, size := download.Wait(t); got != sum || size != downloadSize {
		t.Errorf("%d bytes with the sum %s came, not %d with %s", size, got, downloadSize, sum)
	}
	r := counter.Stop()
	if r.Err != nil {
		t.Errorf("after %d replies: %v", r.Count, r.Err)
	}
	t.Logf("%d replies of redis on one connection, the worst after %v", r.Count, r.Worst.Took.Round(time.Millisecond))
}
