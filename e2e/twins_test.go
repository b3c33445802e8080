package e2e

import (
	"testing"
	"time"
)

// TestTwins moves two pods with the same pids and ports inside, at the same time, to a host where a third one has them too.
// One of them comes from an OCI bundle.
func TestTwins(t *testing.T) {
	tr := newTrip(t)
	var pods []Pod
	var counters []*Counter
	for i, h := range []*Host{tr.alpha, tr.alpha, tr.beta} {
		p := Pod{Name: tr.PodName(string(rune('x'+i)) + "twin"), Rootfs: RedisRootfs(t), Number: byte(60 + i), Args: RedisArgs(), Bundle: i == 1}
		h.RunPod(t, p)
		counters = append(counters, NewCounter(t, tr.client, p.Addr(6379), "n", time.Millisecond))
		pods = append(pods, p)
	}
	wantProgress := func() {
		t.Helper()
		for _, c := range counters {
			c.WantProgress(t)
		}
	}
	for _, hop := range []struct{ from, to *Host }{{tr.alpha, tr.beta}, {tr.beta, tr.alpha}} {
		var moves []*Move
		for _, p := range pods[:2] {
			moves = append(moves, hop.from.StartMove(t, p.Name, hop.to, MoveOptions{}))
		}
		for i, m := range moves {
			if r := m.Wait(); r.Err != nil || m.Final.Result != "migrated" {
				t.Fatalf("migrate %s: %v", pods[i].Name, r)
			}
		}
		wantProgress()
		for _, p := range pods[:2] {
			tr.wantOnlyOn(t, hop.to, p.Name)
			if got := redisInfo(t, tr.client, p.Addr(6379), "process_id"); got[0] != "1" {
				t.Errorf("redis has pid %s inside", got[0])
			}
		}
	}
	tr.wantOnlyOn(t, tr.beta, pods[2].Name)
	for i, c := range counters {
		if r := c.Stop(); r.Err != nil {
			t.Errorf("client of %s: %v", pods[i].Name, r.Err)
		}
	}
	for i, h := range []*Host{tr.alpha, tr.alpha, tr.beta} {
		h.Zap(t, "pod", "rm", "--force", pods[i].Name)
	}
	for _, h := range tr.Hosts {
		tr.wantNothingLeft(t, h)
	}
}
