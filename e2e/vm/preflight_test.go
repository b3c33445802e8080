package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/e2e"
	"github.com/zap-migrate/zap/spec"
)

// preflightLab is a machine that has everything, and one that is booted as something else for each test.
type preflightLab struct {
	*Lab
	client     e2e.NetNS
	rich, poor *Machine
	rootfs     string // on both, of a redis
}

// TestPreflight asks machines to move pods that differ in everything that matters. All reasons are named before a pod is frozen, and its
// client does not notice.
func TestPreflight(t *testing.T) {
	l := &preflightLab{Lab: NewLab(t, "rich", "poor")}
	machines := l.BootAll(
		Spec{Name: "rich", Kernel: l.Kernel(Stable), Criu: CriuUpcoming, CPU: "max"},
		Spec{Name: "poor", Kernel: l.Kernel(Newest), Criu: CriuTesting, CPU: "max", Without: []string{"udp_diag"}},
	)
	l.rich, l.poor, l.client = machines[0], machines[1], l.NewClient()
	files := e2e.RedisRootfs(t)
	for _, m := range machines {
		l.rootfs = rootfsIn(m, files, "redis")
	}
	l.poor.Command("sync") // it is going to be killed
	l.rich.Serve(t)
	t.Run("source", l.poorSource)
	t.Run("target", l.poorTarget)
	t.Run("v1", l.oldHierarchy)
}

// poorSource has a CRIU that is older than its kernel, which dumps there all the same, as zap calls it, and lacks a module that CRIU looks at
// sockets with.
func (l *preflightLab) poorSource(t *testing.T) {
	check := l.poor.TryZap(t, "check")
	if check.Code != 0 || !strings.Contains(check.Stdout, "modprobe -a udp_diag") {
		t.Errorf("zap check: %v", check)
	}
	pod := e2e.Pod{Name: l.PodName("leaving"), Number: 50, Rootfs: l.rootfs, Args: e2e.RedisArgs()}
	l.poor.RunPod(t, pod)
	counter := e2e.NewCounter(t, l.client, pod.Addr(6379), "n", 20*time.Millisecond)
	l.poor.Migrate(t, pod.Name, l.rich.Host, "--idle", patience)
	counter.WantProgress(t)
	l.rich.Zap(t, "pod", "rm", "--force", pod.Name)

	holder := e2e.Pod{Name: l.PodName("survivor"), Number: 51, Rootfs: rootfsIn(l.poor, e2e.ShellRootfs(t), "shell"), Args: []string{"/bin/survivor"}}
	l.poor.RunPod(t, holder)
	survivor := newSurvivor(t, l.client, holder.Addr(7000))
	l.wantRejected(t, l.poor, l.rich, holder, spec.BlockModule+" udp_diag")
	survivor.wantWhole(t, "after it was rejected")
}

// poorTarget has an older CRIU, another processor and other cgroups than the pod's host, and lacks modules; then its clock is wrong, too.
func (l *preflightLab) poorTarget(t *testing.T) {
	l.poor.Kill()
	l.poor.Start(Spec{
		Name: "poor", Kernel: l.Kernel(Stable), Criu: CriuTesting, Cgroup: "hybrid", Without: []string{"overlay", "nft_fwd_netdev"},
	})
	check := l.poor.TryZap(t, "check")
	for _, hint := range []string{"modprobe overlay", "modprobe nft_fwd_netdev"} {
		if check.Code != 1 || !strings.Contains(check.Stdout, hint) {
			t.Errorf("zap check says nothing of %s: %v", hint, check)
		}
	}
	l.poor.Serve(t)
	pod := l.withCgroups(t, e2e.Pod{Name: l.PodName("choosy"), Number: 52, Rootfs: l.rootfs, Args: e2e.RedisArgs()})
	counter := e2e.NewCounter(t, l.client, pod.Addr(6379), "n", 20*time.Millisecond)
	want := []string{spec.BlockCPU, spec.BlockCRIU + " 4.2", spec.BlockCgroup + " hybrid", spec.BlockModule + " overlay", spec.BlockModule + " nft_fwd_netdev"}
	l.wantRejected(t, l.rich, l.poor, pod, want...)
	l.poor.Command("date", "-s", "+1 hour")
	l.wantRejected(t, l.rich, l.poor, pod, append(want, spec.BlockClock)...)
	counter.WantProgress(t)
	l.rich.Zap(t, "pod", "rm", "--force", pod.Name)
}

// oldHierarchy goes from cgroup v2 to v1 and back with the pod's limits; only a pod that has cgroups mounted can't.
func (l *preflightLab) oldHierarchy(t *testing.T) {
	l.poor.Kill()
	l.poor.Start(Spec{Name: "poor", Kernel: l.Kernel(Oldstable), Criu: CriuUpcoming, CPU: "max", Cgroup: "v1"})
	l.poor.Serve(t)
	const limit = 200 << 20
	pod := e2e.Pod{
		Name: l.PodName("limited"), Number: 53, Rootfs: l.rootfs, Args: e2e.RedisArgs(), Flags: []string{"--memory", fmt.Sprint(limit), "--cpus", "0.9"},
	}
	l.rich.RunPod(t, pod)
	counter := e2e.NewCounter(t, l.client, pod.Addr(6379), "n", 20*time.Millisecond)
	l.rich.Migrate(t, pod.Name, l.poor.Host, "--idle", patience)
	counter.WantProgress(t)
	wantLimit := func(m *Machine, file string) {
		t.Helper()
		got := m.Command("sh", "-c", "cat $(find /sys/fs/cgroup -path '*"+pod.Name+"*' -name "+file+")")
		if strings.TrimSpace(got) != fmt.Sprint(limit) {
			t.Errorf("on %s %s is %q, not %d", m.Name, file, got, limit)
		}
	}
	wantLimit(l.poor, "memory.limit_in_bytes")
	l.poor.Migrate(t, pod.Name, l.rich.Host, "--idle", patience)
	counter.WantProgress(t)
	wantLimit(l.rich, "memory.max")

	choosy := l.withCgroups(t, e2e.Pod{Name: l.PodName("choosier"), Number: 54, Rootfs: l.rootfs, Args: e2e.RedisArgs()})
	other := e2e.NewCounter(t, l.client, choosy.Addr(6379), "n", 20*time.Millisecond)
	l.wantRejected(t, l.rich, l.poor, choosy, spec.BlockCgroup+" v1")
	other.WantProgress(t)
	if r := counter.Stop(); r.Err != nil {
		t.Errorf("after %d replies: %v", r.Count, r.Err)
	}
}

// wantRejected wants the pod to stay where it is, unfrozen, for these reasons and no other: a code and a word of what is said with it.
func (l *preflightLab) wantRejected(t *testing.T, from, to *Machine, pod e2e.Pod, reasons ...string) {
	t.Helper()
	m := from.StartMove(t, pod.Name, to.Host, e2e.MoveOptions{Args: []string{"--idle", patience}})
	r := m.Wait()
	if r.Code != 3 || m.Final.Result != "rejected" {
		t.Fatalf("the move was not rejected: %v", r)
	}
	var said struct{ Blockers []spec.Blocker }
	if err := json.Unmarshal([]byte(m.Final.Raw), &said); err != nil {
		t.Fatal(err)
	}
	for _, want := range reasons {
		code, word, _ := strings.Cut(want, " ")
		if !slices.ContainsFunc(said.Blockers, func(b spec.Blocker) bool {
			return b.Code == code && strings.Contains(b.Subject+" "+b.Detail, word) && b.Hint != ""
		}) {
			t.Errorf("no reason %s in %s", want, m.Final.Raw)
		}
	}
	if len(said.Blockers) != len(reasons) {
		t.Errorf("%d reasons, not %d: %s", len(said.Blockers), len(reasons), m.Final.Raw)
	}
	for _, e := range m.Events {
		if e.Phase == "Frozen" {
			t.Errorf("the pod was frozen: %s", e.Raw)
		}
	}
}

// withCgroups runs the pod on the rich machine from a bundle with cgroups mounted, which the pod sees.
func (l *preflightLab) withCgroups(t *testing.T, p e2e.Pod) e2e.Pod {
	t.Helper()
	s := spec.Default()
	s.Root.Path, s.Root.Readonly, s.Hostname = p.Rootfs, false, p.Name
	s.Process.Args, s.Process.Terminal = p.Args, false
	cgroups := specs.LinuxNamespace{Type: specs.CgroupNamespace}
	if !slices.Contains(s.Linux.Namespaces, cgroups) { // this machine has cgroup v1
		s.Linux.Namespaces = append(s.Linux.Namespaces, cgroups)
	}
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	bundle := "/data/bundles/" + p.Name
	l.rich.Copy(dir, bundle)
	l.rich.Zap(t, "pod", "run", "-d", "--network", p.Network(), "--bundle", bundle, p.Name)
	return p
}
