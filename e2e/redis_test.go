package e2e

import (
	"slices"
	"testing"
	"time"
)

// TestRedis moves a redis to another host and back while a client counts on one TCP connection.
func TestRedis(t *testing.T) {
	tr := newTrip(t)
	pod := Pod{Name: tr.PodName("redis"), Rootfs: RedisRootfs(t), Number: 50, Args: RedisArgs()}
	tr.alpha.RunPod(t, pod)
	FillRedis(t, tr.client, pod.Addr(6379), 10<<20)
	identity := []string{"run_id", "process_id", "executable"}
	first, address := redisInfo(t, tr.client, pod.Addr(6379), identity...), mac(t, tr.client, pod)
	if first[0] == "" || first[1] != "1" {
		t.Fatalf("redis says of itself %q", first)
	}
	counter := NewCounter(t, tr.client, pod.Addr(6379), "n", time.Millisecond)
	counter6 := NewCounter(t, tr.client, pod.Addr6(6379), "n6", 5*time.Millisecond)
	counter.WantProgress(t)

	for _, hop := range []struct{ from, to *Host }{{tr.alpha, tr.beta}, {tr.beta, tr.alpha}} {
		resent := resends(t, counter, counter6)
		final := hop.from.Migrate(t, pod.Name, hop.to)
		counter.WantProgress(t)
		counter6.WantProgress(t)
		tr.wantOnlyOn(t, hop.to, pod.Name)
		tr.wantNothingLeft(t, hop.from)
		if now := redisInfo(t, tr.client, pod.Addr(6379), identity...); !slices.Equal(now, first) {
			t.Errorf("redis says of itself %q, said %q", now, first)
		}
		if now := mac(t, tr.client, pod); now != address {
			t.Errorf("the pod's MAC is %s, was %s", now, address)
		}
		// What the client sends into the pause is held and answered; nothing of it waits for the client's TCP.
		if now := resends(t, counter, counter6); ticking(final) && !slices.Equal(now, resent) {
			t.Errorf("the clients had to send segments again, %v in all, %v before, in a pause of %.1f ms", now, resent, final.PauseMS)
		}
		if final.HeldFrames == 0 {
			t.Error("no frame was held, although a client was sending all the time")
		}
		if final.MemoryBytes < 10<<20 || final.TotalMS < final.PauseMS || final.Bytes < final.MemoryBytes/2 {
			t.Errorf("the result doesn't add up: %s", final.Raw)
		}
		t.Logf("%s to %s: pause %.1f ms, total %.1f ms, %d frames held", hop.from.Name, hop.to.Name, final.PauseMS, final.TotalMS, final.HeldFrames)
	}

	for _, c := range []*Counter{counter, counter6} {
		r := c.Stop()
		if r.Err != nil {
			t.Errorf("after %d replies: %v", r.Count, r.Err)
		}
		t.Logf("%d replies on one connection, the worst after %v", r.Count, r.Worst.Took)
	}
	tr.alpha.Zap(t, "pod", "rm", "--force", pod.Name)
	tr.wantNothingLeft(t, tr.alpha)
	tr.wantNothingLeft(t, tr.beta)
}

// resends is how many segments each client has sent again, IPv4 and IPv6.
func resends(t *testing.T, counters ...*Counter) []uint32 {
	t.Helper()
	var all []uint32
	for _, c := range counters {
		n, err := Retransmits(c.conn)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}
