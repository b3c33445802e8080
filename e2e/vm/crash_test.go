package vm

import (
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
)

// settleTime bounds how long machines take to agree after one of them is back.
const settleTime = 3 * time.Minute

// TestCrash pulls the plug of one machine in the middle of a move and boots it again: the target in every phase, where the pod goes on at the
// source, and the source once it has committed, where the pod goes on at the target.
func TestCrash(t *testing.T) {
	l := NewLab(t, "alpha", "beta")
	k := l.Kernel(Stable)
	machines := l.BootAll(Spec{Name: "alpha", Kernel: k}, Spec{Name: "beta", Kernel: k})
	alpha, beta := machines[0], machines[1]
	client := l.NewClient()
	pod := e2e.Pod{Name: l.PodName("redis"), Number: 50, Rootfs: rootfsIn(alpha, e2e.RedisRootfs(t), "redis"), Args: e2e.RedisArgs()}
	alpha.RunPod(t, pod)
	alpha.Serve(t)
	counter := e2e.NewCounter(t, client, pod.Addr(6379), "n", 10*time.Millisecond)

	for _, phase := range []string{"Accepted", "Receiving", "Restoring", "Prepared"} {
		t.Run("target "+phase, func(t *testing.T) {
			beta.Serve(t, "ZAP_STOP_AT=target:"+phase)
			move := alpha.StartMove(t, pod.Name, beta.Host, e2e.MoveOptions{Args: []string{"--idle", "10s"}})
			awaitStopped(t, beta)
			beta.Kill()
			if r := move.Wait(); r.Code != 4 {
				t.Errorf("zap migrate ended with code %d, not 4: %s", r.Code, r.Stderr)
			}
			counter.WantProgress(t)
			beta.Start(beta.Spec)
			server := beta.Serve(t)
			wantPod(t, alpha, pod.Name, "running")
			wantPod(t, beta, pod.Name, "")
			server.Stop()
		})
	}

	beta.Serve(t)
	move := alpha.StartMove(t, pod.Name, beta.Host, e2e.MoveOptions{Args: []string{"--idle", patience}, Env: []string{"ZAP_STOP_AT=source:Committed"}})
	awaitStopped(t, alpha)
	alpha.Kill()
	move.Wait()
	alpha.Start(alpha.Spec)
	alpha.Serve(t) // tells the target what its journal says
	wantPod(t, beta, pod.Name, "running")
	wantPod(t, alpha, pod.Name, "")
	counter.WantProgress(t)
	if r := counter.Stop(); r.Err != nil {
		t.Errorf("after %d replies: %v", r.Count, r.Err)
	}
}

// awaitStopped waits until a zap on the machine has stopped itself, as ZAP_STOP_AT asks.
func awaitStopped(t *testing.T, m *Machine) {
	t.Helper()
	const script = `grep -l '^State:.T (stopped)' /proc/[0-9]*/status 2>/dev/null | wc -l`
	e2e.WaitFor(t, settleTime, "zap to stop on "+m.Name, func() bool { return strings.TrimSpace(m.Command("sh", "-c", script)) != "0" })
}

// wantPod waits until the machine says of the pod what is wanted, nothing when it must not know it.
func wantPod(t *testing.T, m *Machine, pod, status string) {
	t.Helper()
	var got string
	for deadline := time.Now().Add(settleTime); ; time.Sleep(500 * time.Millisecond) {
		got = ""
		for _, p := range m.Pods(t) {
			if p["id"] == pod || p["name"] == pod {
				got, _ = p["status"].(string)
			}
		}
		if got == status {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("on %s the pod is %q, not %q", m.Name, got, status)
		}
	}
}
