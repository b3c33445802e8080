package vm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
	"github.com/zap-migrate/zap/spec"
)

// TestPreflight asks a machine to take a pod that differs from the pod's own in everything that matters. All reasons are named, and the pod
// does not notice.
func TestPreflight(t *testing.T) {
	l := NewLab(t, "rich", "poor")
	machines := l.BootAll(
		Spec{Name: "rich", Kernel: l.Kernel(Stable), Criu: CriuUpcoming, CPU: "max"},
		Spec{Name: "poor", Kernel: l.Kernel(Stable), Criu: CriuTesting, Cgroup: "hybrid"},
	)
	rich, poor := machines[0], machines[1]
	poor.Serve(t)
	client := l.NewClient()
	pod := e2e.Pod{Name: l.PodName("redis"), Number: 50, Rootfs: rootfsIn(rich, e2e.RedisRootfs(t), "redis"), Args: e2e.RedisArgs()}
	rich.RunPod(t, pod)
	counter := e2e.NewCounter(t, client, pod.Addr(6379), "n", 5*time.Millisecond)

	wantRejected := func(codes ...string) {
		t.Helper()
		m := rich.StartMove(t, pod.Name, poor.Host, e2e.MoveOptions{Args: []string{"--idle", patience}})
		r := m.Wait()
		if r.Code != 3 || m.Final.Result != "rejected" {
			t.Fatalf("the move was not rejected: %v", r)
		}
		for _, code := range codes {
			if !strings.Contains(m.Final.Raw, fmt.Sprintf("%q:%q", "code", code)) {
				t.Errorf("no blocker %s in %s", code, m.Final.Raw)
			}
		}
		for _, e := range m.Events {
			if e.Phase == "Frozen" {
				t.Errorf("the pod was frozen: %s", e.Raw)
			}
		}
		t.Log(m.Final.Raw)
		counter.WantProgress(t)
	}
	wantRejected(spec.BlockCPU, spec.BlockCRIU)

	poor.Command("date", "-s", "+1 hour")
	wantRejected(spec.BlockCPU, spec.BlockCRIU, spec.BlockClock)
	if r := counter.Stop(); r.Err != nil {
		t.Errorf("after %d replies: %v", r.Count, r.Err)
	}
}
