package e2e

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// rewriter is a redis client that writes the same keys again and again, so that the redis changes its memory all the time.
type rewriter struct {
	stop chan struct{}
	done chan error
}

func newRewriter(t *testing.T, from NetNS, address string, keys int) *rewriter {
	t.Helper()
	conn, err := from.Dial(address, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	w := &rewriter{make(chan struct{}), make(chan error, 1)}
	go func() {
		defer conn.Close()
		in := bufio.NewReader(conn)
		noise := rand.NewChaCha8([32]byte{2})
		value := make([]byte, 256<<10)
		for i := 0; ; i++ {
			select {
			case <-w.stop:
				w.done <- nil
				return
			default:
			}
			noise.Read(value)
			conn.SetDeadline(time.Now().Add(replyTimeout))
			_, err := conn.Write(command("SET", fmt.Appendf(nil, "again:%d", i%keys), value))
			line := ""
			if err == nil {
				line, err = in.ReadString('\n')
			}
			if err != nil || line != "+OK\r\n" {
				w.done <- fmt.Errorf("write %d: %q, %w", i, line, err)
				return
			}
		}
	}()
	return w
}

// end stops the writer and fails the test if it met an error.
func (w *rewriter) end(t *testing.T) {
	t.Helper()
	close(w.stop)
	if err := <-w.done; err != nil {
		t.Errorf("the writer: %v", err)
	}
}

// TestPreCopy sends a redis's memory ahead: refused when the pause would be too long, then with little left for the pause, then while a
// client keeps changing it.
func TestPreCopy(t *testing.T) {
	tr := newTrip(t)
	pod := Pod{Name: tr.PodName("pre"), Rootfs: RedisRootfs(t), Number: 57, Args: RedisArgs()}
	tr.alpha.RunPod(t, pod)
	FillRedis(t, tr.client, pod.Addr(6379), 64<<20)
	counter := NewCounter(t, tr.client, pod.Addr(6379), "n", time.Millisecond)
	counter.WantProgress(t)

	m := tr.alpha.StartMove(t, pod.Name, tr.beta, MoveOptions{Args: []string{"--mode", "pre", "--max-downtime", "1ms"}})
	if r := m.Wait(); r.Code != 4 || !strings.Contains(r.Stderr, "the pause would be too long") {
		t.Fatalf("with --max-downtime 1ms: %v", r)
	}
	for _, e := range m.Events {
		if e.Phase == "Frozen" {
			t.Error("it froze the pod nevertheless")
		}
	}
	tr.wantOnlyOn(t, tr.alpha, pod.Name)
	tr.wantNothingLeft(t, tr.beta)
	counter.WantProgress(t)

	final := tr.alpha.Migrate(t, pod.Name, tr.beta) // auto
	if final.Mode != "pre" || final.Tracking == "" || final.Tracking == "hashes" && !strings.Contains(final.Why, "does not track") || len(final.Rounds) == 0 || final.Rounds[0].Bytes < 64<<20 || final.FrozenBytes > final.MemoryBytes/4 {
		t.Errorf("with auto: %s", final.Raw)
	}
	tr.wantOnlyOn(t, tr.beta, pod.Name)
	tr.wantNothingLeft(t, tr.alpha)
	counter.WantProgress(t)

	// Now it writes faster than the link carries: as the user says, it stays here, or it goes once rounds gain nothing.
	tr.SlowLink(tr.alpha, "400mbit")
	writer := newRewriter(t, tr.client, pod.Addr(6379), 128)
	m = tr.beta.StartMove(t, pod.Name, tr.alpha, MoveOptions{Args: []string{"--mode", "pre", "--max-downtime", "400ms"}})
	if r := m.Wait(); r.Code != 4 || !strings.Contains(r.Stderr, "the pause would be too long") {
		t.Fatalf("with --max-downtime 400ms: %v", r)
	}
	rounds := 0
	for _, e := range m.Events {
		if e.Phase == "Frozen" {
			t.Error("it froze the pod nevertheless")
		}
		if e.Event == "round" {
			rounds++
		}
	}
	if rounds < 2 {
		t.Errorf("it gave up after %d rounds", rounds)
	}
	tr.wantOnlyOn(t, tr.beta, pod.Name)
	counter.WantProgress(t)
	final = tr.beta.Migrate(t, pod.Name, tr.alpha, "--mode", "pre")
	writer.end(t)
	tr.SlowLink(tr.alpha, "")
	// It took rounds for as long as each sent much less than the one before, which was well below the eight that it may take.
	if n := len(final.Rounds); n < 2 || n > 7 || final.FrozenBytes < 4<<20 {
		t.Errorf("while it was written to: %s", final.Raw)
	}
	tr.wantOnlyOn(t, tr.alpha, pod.Name)
	tr.wantNothingLeft(t, tr.beta)
	counter.WantProgress(t)
	if r := counter.Stop(); r.Err != nil {
		t.Errorf("the client: %v", r.Err)
	}
	tr.alpha.Zap(t, "pod", "rm", "--force", pod.Name)
}

// TestPreCopyFallsBack has the target's CRIU die over a pod whose memory went ahead, as zap chose: it is moved without that then.
func TestPreCopyFallsBack(t *testing.T) {
	s := newScene(t)
	FillRedis(t, s.client, s.pod.Addr(6379), 64<<20)
	s.mode = "auto"
	s.stopAt("target:Restoring")
	if !s.killCriu(false) {
		t.Fatal("there is no CRIU at the target")
	}
	s.goOn()
	if r := s.move.Wait(); r.Code != 0 || s.move.Final.Mode != "stop" || !strings.Contains(r.Stdout, `"event":"again"`) {
		t.Errorf("zap migrate: %v", r)
	}
	s.counter.WantProgress(t)
	s.wantOnlyOn(t, s.beta, s.pod.Name)
	s.wantNothingLeft(t, s.alpha)
	if r := s.counter.Stop(); r.Err != nil {
		t.Errorf("the client: %v", r.Err)
	}
}
