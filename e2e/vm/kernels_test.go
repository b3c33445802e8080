package vm

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
)

// downloadSize is the size of what nginx serves. Its client takes downloadRate bytes a second, so that it goes on through all moves.
const (
	downloadSize = 16 << 20
	downloadRate = 16 << 10
)

// TestKernels is a rolling upgrade that goes on until three pods have moved from each of three kernels to each other: two machines take turns, one
// is drained of its pods by the other, shut down, and booted again with the next kernel. Nothing of what the pods' clients ask fails, and each
// connection is the same from the first machine to the last, whose plug is pulled. CRIU gets newer on the way.
func TestKernels(t *testing.T) {
	l := NewLab(t, "alpha", "beta")
	old, stable, newest := l.Kernel(Oldstable), l.Kernel(Stable), l.Kernel(Newest)
	route := []Spec{ // of the pods
		{Name: "alpha", Kernel: old, Criu: CriuTesting},
		{Name: "beta", Kernel: stable, Criu: CriuTesting},
		{Name: "alpha", Kernel: newest, Criu: CriuUpcoming},
		{Name: "beta", Kernel: old, Criu: CriuUpcoming},
		{Name: "alpha", Kernel: newest, Criu: CriuUpcoming},
		{Name: "beta", Kernel: stable, Criu: CriuUpcoming},
		{Name: "alpha", Kernel: old, Criu: CriuUpcoming},
	}
	machines := l.BootAll(route[0], route[1])
	machines[1].Serve(t)
	u := newUpgrade(t, l, machines[0])
	for i, next := range route[1:] {
		from, to := machines[i%2], machines[(i+1)%2]
		if to.Spec.Kernel != next.Kernel || to.Spec.Criu != next.Criu {
			to.Shutdown() // as soon as it is empty; the pods don't need the machine that they have left
			u.wantProgress(t, from)
			to.Start(next)
			to.Serve(t)
		}
		u.drain(t, from, to)
	}
	machines[1].Kill()
	u.wantProgress(t, machines[0])
	u.finish(t)
}

// upgrade is three pods with their clients, and what was seen of them.
type upgrade struct {
	pods     []e2e.Pod
	counter  *e2e.Counter
	download *e2e.Download
	sum      string // of the download
	teller   *listener
	survivor *survivor
	kernels  []string
	hops     []hop
}

// hop is one drain.
type hop struct {
	from, to   Spec
	begin, end time.Time
	reports    map[string]e2e.Event
}

// newUpgrade starts the pods on a machine, and their clients: a redis under load, a download from an nginx, and the survivor, which has processes,
// threads, shared memory and timers, with the teller in the same pod.
func newUpgrade(t *testing.T, l *Lab, m *Machine) *upgrade {
	t.Helper()
	nginx, sum := e2e.NginxRootfs(t, downloadSize)
	shell := rootfsIn(m, e2e.ShellRootfs(t), "shell")
	m.Copy(e2e.Build(t, "teller", "github.com/zap-migrate/zap/e2e/vm/testdata/teller"), shell+"/bin/teller")
	u := &upgrade{sum: sum, kernels: []string{m.Spec.Kernel.Release}, pods: []e2e.Pod{
		{Name: l.PodName("redis"), Number: 50, Rootfs: rootfsIn(m, e2e.RedisRootfs(t), "redis"), Args: e2e.RedisArgs()},
		{Name: l.PodName("nginx"), Number: 51, Rootfs: rootfsIn(m, nginx, "nginx"), Args: []string{"/usr/sbin/nginx", "-c", "/etc/nginx.conf"}},
		{Name: l.PodName("survivor"), Number: 52, Rootfs: shell, Args: []string{"/bin/sh", "-c", "teller & SURVIVOR_MIB=1 exec survivor"}},
	}}
	for _, p := range u.pods {
		m.RunPod(t, p)
	}
	client := l.NewClient()
	e2e.FillRedis(t, client, u.pods[0].Addr(6379), 5<<20)
	u.counter = e2e.NewCounter(t, client, u.pods[0].Addr(6379), "n", 20*time.Millisecond)
	u.download = e2e.StartDownload(t, client, u.pods[1].Addr(80), "/big", downloadRate)
	u.teller = newListener(t, client, u.pods[2].Addr(7100))
	u.survivor = newSurvivor(t, client, u.pods[2].Addr(7000))
	u.survivor.wantWhole(t, "before the first move")
	return u
}

// drain moves all pods.
func (u *upgrade) drain(t *testing.T, from, to *Machine) {
	t.Helper()
	h := hop{from: from.Spec, to: to.Spec, begin: time.Now()}
	h.reports = from.Drain(t, to.Host, "--idle", patience)
	if len(h.reports) != len(u.pods) {
		t.Errorf("%d pods were moved, not %d: %v", len(h.reports), len(u.pods), h.reports)
	}
	u.kernels = append(u.kernels, to.Spec.Kernel.Release)
	u.wantProgress(t, to)
	h.end = time.Now()
	u.hops = append(u.hops, h)
	t.Logf("from %s with CRIU of %s to %s with CRIU of %s in %.0f s:\n%s", from.Spec.Kernel.Release, cmp.Or(from.Spec.Criu, CriuTesting),
		to.Spec.Kernel.Release, cmp.Or(to.Spec.Criu, CriuTesting), h.end.Sub(h.begin).Seconds(), u.table(h))
	u.survivor.wantWhole(t, "on "+to.Spec.Kernel.Release)
	u.teller.wantSameClocks(t, to, u.pods[2].Name)
}

// wantProgress wants all clients to get answers over the connections that they have, from the kernel of the machine.
func (u *upgrade) wantProgress(t *testing.T, m *Machine) {
	t.Helper()
	u.counter.WantProgress(t)
	if got := u.teller.kernels(t); !slices.Equal(got, u.kernels) {
		t.Errorf("the kernels that answered are %v, not %v", got, u.kernels)
	}
	if got := strings.TrimSpace(m.Command("uname", "-r")); got != u.kernels[len(u.kernels)-1] {
		t.Errorf("the pods' machine runs %s, not %s", got, u.kernels[len(u.kernels)-1])
	}
}

// finish ends the clients and wants them to have seen one pause in every move, and no more.
func (u *upgrade) finish(t *testing.T) {
	t.Helper()
	if got := u.download.Read(); got == downloadSize {
		t.Error("the download was over before the moves were: make it longer")
	}
	u.download.Hurry()
	if got, size := u.download.Wait(t); got != u.sum || size != downloadSize {
		t.Errorf("%d bytes with the sum %s came, not %d with %s", size, got, downloadSize, u.sum)
	}
	r := u.counter.Stop()
	if r.Err != nil {
		t.Errorf("after %d replies: %v", r.Count, r.Err)
	}
	t.Logf("%d replies of redis on one connection", r.Count)
	for i, h := range u.hops {
		for who, samples := range map[string][]e2e.Sample{"redis": r.Samples, "survivor": u.teller.all()} {
			worst, pauses := longest(samples, h.begin, h.end)
			t.Logf("move %d: the client of %s waited %v at most", i+1, who, worst.Round(time.Millisecond))
			if pauses != 1 {
				t.Errorf("move %d: the client of %s saw %d pauses, not one: %v", i+1, who, pauses, worst)
			}
		}
	}
	var all strings.Builder
	for _, h := range u.hops {
		all.WriteString(u.table(h))
	}
	t.Logf("| pod | from | to | checkpoint, ms | restore, ms | pause, ms | total, ms | KiB |\n%s", all.String())
}

// table has a line for each pod of one drain.
func (u *upgrade) table(h hop) string {
	var out strings.Builder
	for _, p := range u.pods {
		r := h.reports[p.Name]
		name, _, _ := strings.Cut(p.Name, "-")
		fmt.Fprintf(&out, "| %s | %s | %s | %.0f | %.0f | %.0f | %.0f | %d |\n", name, h.from.Kernel.Release, h.to.Kernel.Release,
			r.Steps["dump"], r.Steps["target_restore"], r.PauseMS, r.TotalMS, r.Bytes>>10)
	}
	return out.String()
}
