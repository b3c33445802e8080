package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// attached says whether the pod's link is in the host's bridge, where it would answer for the pod's address.
func attached(t *testing.T, h *Host) bool {
	t.Helper()
	r := h.Try("ip", "-o", "link", "show", "master", Bridge)
	if r.Err != nil {
		t.Fatalf("list the bridge's links on %s: %v", h.Name, r)
	}
	return strings.Contains(r.Stdout, ": zp")
}

// parkedScene is a move whose target is prepared and has lost the source, which stands still in phase stop.
func parkedScene(t *testing.T, stop string) *scene {
	t.Helper()
	s := newScene(t)
	s.stopAt(stop)
	WaitFor(t, 30*time.Second, "the target to be prepared", func() bool { return s.targetPhase() == "Prepared" })
	WaitFor(t, 30*time.Second, "the target to leave the network", func() bool { return !attached(t, s.beta) })
	return s
}

// TestParkedPodIsRemoved shows how a pod in a move is listed, that it is not removed by mistake, and that an operator who is
// tired of waiting drops it at the target.
func TestParkedPodIsRemoved(t *testing.T) {
	s := parkedScene(t, "source:Sent")
	for h, want := range map[*Host]string{s.alpha: "moving", s.beta: "arriving"} {
		if got := podStatus(t, h, s.pod.Name); got != want {
			t.Errorf("%s says the pod is %q, not %s", h.Name, got, want)
		}
		if r := h.TryZap(t, "pod", "rm", s.pod.Name); r.Err == nil || !strings.Contains(r.Stderr, "--force") {
			t.Errorf("remove it on %s: %v", h.Name, r)
		}
	}
	s.beta.Zap(t, "pod", "rm", "--force", s.pod.Name)
	s.wantNothingLeft(t, s.beta)
	s.goOn()
	if r := s.move.Wait(); r.Code != 4 {
		t.Errorf("zap migrate: %v", r)
	}
	if winner, _ := s.settle(); winner != s.alpha {
		t.Errorf("the pod runs on %s", winner.Name)
	}
	s.counter.WantProgress(t)
	s.alpha.Migrate(t, s.pod.Name, s.beta, "--idle", impatience)
	s.counter.WantProgress(t)
	s.wantNothingLeft(t, s.alpha)
}

// TestRemoveLeavingPod removes a pod at its source in the middle of a move.
func TestRemoveLeavingPod(t *testing.T) {
	s := newScene(t)
	s.stopAt("source:PreCopying")
	s.goOn() // it may be anywhere when the pod is removed
	s.alpha.Zap(t, "pod", "rm", "--force", s.pod.Name)
	s.move.Wait()
	WaitFor(t, settleTime, "the target to know", func() bool { return podStatus(t, s.beta, s.pod.Name) != "arriving" })
	if podStatus(t, s.beta, s.pod.Name) == "running" { // the move was quicker
		s.beta.Zap(t, "pod", "rm", "--force", s.pod.Name)
	}
	for _, h := range s.Hosts {
		s.wantNothingLeft(t, h)
	}
}

// TestParkedPodComesBack has the source decide after the target has lost it and left the network: with the commit the pod
// takes its address again.
func TestParkedPodComesBack(t *testing.T) {
	s := parkedScene(t, "source:Committed")
	s.goOn()
	if r := s.move.Wait(); r.Code != 0 {
		t.Errorf("zap migrate: %v", r)
	}
	if !attached(t, s.beta) {
		t.Error("the pod is not in the network")
	}
	s.counter.WantProgress(t)
	s.wantNothingLeft(t, s.alpha)
	s.wantOnlyOn(t, s.beta, s.pod.Name)
}

// TestSupervisorDies kills the process that holds a prepared pod, before and after its host has lost the source. The restored
// processes, which stand still, must not run, and nothing of them may stay.
func TestSupervisorDies(t *testing.T) {
	for name, lost := range map[string]bool{"while the source is there": false, "when the source is lost": true} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.stopAt("source:Sent")
			WaitFor(t, 30*time.Second, "the target to be prepared", func() bool { return s.targetPhase() == "Prepared" })
			if lost {
				WaitFor(t, 30*time.Second, "the target to leave the network", func() bool { return !attached(t, s.beta) })
			}
			killed := false
			for _, p := range mustDescendants(t) {
				if strings.HasSuffix(p.Args, " supervise --arrival") {
					killed = true
					if err := signalProcess(p, unix.SIGKILL); err != nil {
						t.Fatal(err)
					}
				}
			}
			if !killed {
				t.Fatal("no supervisor")
			}
			s.goOn()
			if r := s.move.Wait(); r.Code != 4 {
				t.Errorf("zap migrate: %v", r)
			}
			if winner, _ := s.settle(); winner != s.alpha {
				t.Errorf("the pod runs on %s", winner.Name)
			}
			s.counter.WantProgress(t)
			s.wantNothingLeft(t, s.beta)
			s.alpha.Migrate(t, s.pod.Name, s.beta, "--idle", impatience)
			s.counter.WantProgress(t)
		})
	}
}

// TestMemoryLimit moves a pod that fits its limit, but not together with the CRIU that restores it, and wants the limit to be
// there afterwards.
func TestMemoryLimit(t *testing.T) {
	tr := newTrip(t)
	const limit = 40 << 20
	pod := Pod{Name: tr.PodName("limit"), Rootfs: RedisRootfs(t), Number: 82, Args: RedisArgs(), Flags: []string{"--memory", "40m"}}
	tr.alpha.RunPod(t, pod)
	FillRedis(t, tr.client, pod.Addr(6379), 34<<20)
	counter := NewCounter(t, tr.client, pod.Addr(6379), "n", time.Millisecond)
	t.Logf("limit %d, used %d", memoryFile(t, tr.alpha, pod.Name, "memory.limit_in_bytes", "memory.max"),
		memoryFile(t, tr.alpha, pod.Name, "memory.usage_in_bytes", "memory.current"))
	for _, hop := range []struct{ from, to *Host }{{tr.alpha, tr.beta}, {tr.beta, tr.alpha}} {
		hop.from.Migrate(t, pod.Name, hop.to)
		counter.WantProgress(t)
		WaitFor(t, 10*time.Second, "the limit to be set", func() bool {
			return memoryFile(t, hop.to, pod.Name, "memory.limit_in_bytes", "memory.max") == limit
		})
	}
	if r := counter.Stop(); r.Err != nil {
		t.Errorf("the client: %v", r.Err)
	}
}

// memoryFile is what a file says of the memory cgroup that a pod's first process is in, by its names in v1 and v2.
func memoryFile(t *testing.T, h *Host, pod string, names ...string) int {
	t.Helper()
	pid := 0
	for _, p := range h.Pods(t) {
		if p["name"] == pod {
			n, _ := p["pid"].(float64)
			pid = int(n)
		}
	}
	for _, dir := range cgroupsOf(pid) {
		for _, name := range names {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if n, perr := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && perr == nil {
				return n
			}
		}
	}
	return -1
}
