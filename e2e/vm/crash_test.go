package vm

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
)

// settleTime bounds how long machines take to agree after one of them is back.
const settleTime = 3 * time.Minute

// crashLab is two machines with pods, of which one loses its power in the middle of their moves.
type crashLab struct {
	alpha, beta *Machine
	pods        []e2e.Pod
	counters    []*e2e.Counter
	doomed      []e2e.Pod // with nobody who asks them
}

// TestCrash pulls the plug of one machine in the middle of moves and boots it again, with a pod in each of its phases at once: first the
// target, whose pods all go on at the source, then the source. Of what the target had taken in before its crash it uses what it finds again.
func TestCrash(t *testing.T) {
	lab := NewLab(t, "alpha", "beta")
	k := lab.Kernel(Stable)
	machines := lab.BootAll(Spec{Name: "alpha", Kernel: k}, Spec{Name: "beta", Kernel: k})
	l := &crashLab{alpha: machines[0], beta: machines[1]}
	client := lab.NewClient()
	rootfs := rootfsIn(l.alpha, e2e.RedisRootfs(t), "redis")
	for i := range 8 {
		pod := e2e.Pod{Name: lab.PodName(fmt.Sprintf("redis%d", i)), Number: byte(50 + i), Rootfs: rootfs, Args: e2e.RedisArgs()}
		l.alpha.RunPod(t, pod)
		if i >= 6 {
			l.doomed = append(l.doomed, pod)
			continue
		}
		l.pods = append(l.pods, pod)
		l.counters = append(l.counters, e2e.NewCounter(t, client, pod.Addr(6379), "n", 50*time.Millisecond))
	}
	l.alpha.Serve(t)
	// What is being tested is not how soon a machine that emulates two takes a stopped program for dead.
	l.beta.ServeFlags = []string{"--idle", patience}
	t.Run("target", l.targetDies)
	if t.Failed() {
		return
	}
	t.Run("source", l.sourceDies)
}

// targetDies has one pod in each phase of the target when that loses its power. All of them go on at the source, but for two that were the target's: these
// have stopped there. Those two come first, one after the other: where one machine emulates two, six moves at once that all bring the same files keep each
// other waiting for long.
func (l *crashLab) targetDies(t *testing.T) {
	var moves []*e2e.Move
	start := func(pod e2e.Pod, phase string, env ...string) *e2e.Move {
		server := l.another(len(moves))
		server.Serve(t, "ZAP_STOP_AT=target:"+phase)
		m := l.alpha.StartMove(t, pod.Name, server, e2e.MoveOptions{Args: []string{"--idle", patience}, Env: env, Timeout: 2 * settleTime})
		moves = append(moves, m)
		return m
	}
	defer func() {
		for _, m := range moves {
			m.Wait()
		}
	}()
	given := []*e2e.Move{start(l.doomed[0], "Running")}
	awaitStopped(t, l.beta, 1, moves...)
	given = append(given, start(l.doomed[1], "never", "ZAP_STOP_AT=source:Committed"))
	awaitStopped(t, l.alpha, 1, moves...)
	phases := []string{"Accepted", "Receiving", "Restoring", "Prepared"}
	var kept []*e2e.Move
	for i, phase := range phases {
		kept = append(kept, start(l.pods[i], phase))
	}
	awaitStopped(t, l.beta, 1+len(phases), moves...)
	l.beta.Kill()
	l.alpha.Command("sh", "-c", `kill -CONT $(grep -l '^State:.T (stopped)' /proc/[0-9]*/status | cut -d/ -f3)`)
	l.beta.Start(l.beta.Spec)
	for i := range moves {
		l.another(i) // where nobody listens yet
	}
	for i, phase := range phases {
		if r := kept[i].Wait(); r.Code != 4 {
			t.Errorf("%s: zap migrate ended with code %d, not 4: %s", phase, r.Code, r.Stderr)
		}
		l.counters[i].WantProgress(t)
	}
	l.beta.ServeFlags = append(l.beta.ServeFlags, "--listen", "0.0.0.0:"+strconv.Itoa(e2e.PeerPort))
	l.beta.Serve(t)
	for i := range phases {
		wantPod(t, l.alpha, l.pods[i].Name, "running")
		wantPod(t, l.beta, l.pods[i].Name, "")
	}
	for i, pod := range l.doomed {
		if r := given[i].Wait(); r.Code != 6 {
			t.Errorf("%s: zap migrate ended with code %d, not 6: %s", pod.Name, r.Code, r.Stderr)
		}
		wantPod(t, l.alpha, pod.Name, "stopped")
		wantPod(t, l.beta, pod.Name, "")
		l.alpha.Zap(t, "pod", "rm", pod.Name)
	}
}

// another is the target's n-th further address, for a zap serve of its own.
func (l *crashLab) another(n int) *e2e.Host {
	h := *l.beta.Host
	h.Name = fmt.Sprintf("%s-%d", h.Name, n)
	h.Addr = netip.AddrFrom4([4]byte{10, 88, 0, byte(100 + n)})
	l.beta.Command("ip", "addr", "add", h.Addr.String()+"/24", "dev", "br0")
	return &h
}

// sourceDies has one pod in each phase of the source when that loses its power, and its pods with it, but for those that the target has
// whole: one was committed, for another a person says so.
func (l *crashLab) sourceDies(t *testing.T) {
	// In this order: each stands still while the next ones are on their way, and the target asks about those last that it has whole.
	const offered, early, frozen, sent, decided, committed = 0, 1, 2, 3, 4, 5
	var moves []*e2e.Move
	for i, phase := range []string{offered: "Offered", early: "PreCopying", frozen: "Frozen", sent: "Sent", decided: "Sent", committed: "Committed"} {
		moves = append(moves, l.alpha.StartMove(t, l.pods[i].Name, l.beta.Host, e2e.MoveOptions{
			Args: []string{"--idle", patience}, Env: []string{"ZAP_STOP_AT=source:" + phase}, Timeout: 2 * settleTime,
		}))
		awaitStopped(t, l.alpha, len(moves), moves...)
	}
	for _, i := range []int{sent, decided, committed} {
		wantPod(t, l.beta, l.pods[i].Name, "arriving")
	}
	l.alpha.Kill()
	for _, m := range moves {
		m.Wait()
	}
	l.beta.Zap(t, "migrate", "--resolve", "commit", l.pods[decided].Name)
	wantPod(t, l.beta, l.pods[decided].Name, "running")
	l.counters[decided].WantProgress(t)
	l.alpha.Start(l.alpha.Spec)
	l.alpha.Serve(t) // tells the target what its journals say

	wantPod(t, l.beta, l.pods[committed].Name, "running")
	wantPod(t, l.alpha, l.pods[committed].Name, "")
	l.counters[committed].WantProgress(t)
	for _, i := range []int{offered, early, frozen, sent} {
		wantPod(t, l.beta, l.pods[i].Name, "")
		wantPod(t, l.alpha, l.pods[i].Name, "stopped") // as after every loss of power
	}
	l.alpha.Zap(t, "pod", "rm", l.pods[sent].Name)
	l.alpha.Zap(t, "pod", "rm", "--force", l.pods[decided].Name) // here it was in a move that nobody can end but a person
	wantPod(t, l.alpha, l.pods[decided].Name, "")
	wantPod(t, l.beta, l.pods[decided].Name, "running")
	for _, i := range []int{decided, committed} {
		if r := l.counters[i].Stop(); r.Err != nil {
			t.Errorf("%s: after %d replies: %v", l.pods[i].Name, r.Count, r.Err)
		}
	}
}

// awaitStopped waits until so many zaps on the machine have stopped themselves, as ZAP_STOP_AT asks, and prints how moves ended if they don't.
func awaitStopped(t *testing.T, m *Machine, count int, moves ...*e2e.Move) {
	t.Helper()
	const script = `grep -l '^State:.T (stopped)' /proc/[0-9]*/status 2>/dev/null | wc -l`
	stopped := false
	defer func() {
		for i, move := range moves {
			if !stopped && move.Ended() {
				t.Logf("move %d has ended: %v", i, move.Wait())
			}
		}
	}()
	e2e.WaitFor(t, settleTime, fmt.Sprintf("%d zaps to stop on %s", count, m.Name), func() bool {
		stopped = strings.TrimSpace(m.Command("sh", "-c", script)) == strconv.Itoa(count)
		return stopped
	})
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
