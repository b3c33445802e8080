package e2e

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// restore runs zap restore --detach with /dev/null as standard streams; execute would take pipes, and wait for the container.
func (c *container) restore(h *Host, flags ...string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	args := append(append([]string{"restore", "--detach", "--bundle", c.bundle}, flags...), c.name)
	cmd := h.Command(ctx, Binary(c.t), h.zapArgs(args...)...)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer null.Close()
	said, err := os.CreateTemp(c.t.TempDir(), "stderr")
	if err != nil {
		c.t.Fatal(err)
	}
	defer said.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = null, null, said
	if r := execute(ctx, cmd); r.Err != nil {
		text, _ := os.ReadFile(said.Name())
		c.t.Fatalf("zap %s: %v: %s", strings.Join(args, " "), r.Err, text)
	}
}

// wantNoTables wants no packet filter of zap's or CRIU's in a network namespace.
func wantNoTables(t *testing.T, n NetNS) {
	t.Helper()
	out, err := exec.Command("ip", "netns", "exec", string(n), "nft", "list", "tables").CombinedOutput()
	if err != nil {
		t.Fatalf("nft list tables: %v: %s", err, out)
	}
	if text := strings.TrimSpace(string(out)); text != "" {
		t.Errorf("packet filters are left: %s", text)
	}
}

// TestCheckpointRedis saves a redis while two clients count on one TCP connection each, and restores it: first it goes on beside its
// images, then it is gone for longer than a client waits before it asks again.
func TestCheckpointRedis(t *testing.T) {
	tr := newTrip(t)
	engine, p := tr.engineNetwork(t, tr.alpha, 61)
	c := tr.redisContainer(t, engine)
	c.start()
	FillRedis(t, tr.client, p.Addr(6379), 4<<20)
	counter := NewCounter(t, tr.client, p.Addr(6379), "n", time.Millisecond)
	counter6 := NewCounter(t, tr.client, p.Addr6(6379), "n6", time.Millisecond)
	first := redisInfo(t, tr.client, p.Addr(6379), "run_id")
	images := []string{"--image-path", tr.Path("images"), "--work-path", tr.Path("work"), "--tcp-established"}

	tr.alpha.Zap(t, append(append([]string{"checkpoint", "--leave-running"}, images...), c.name)...)
	counter.WantProgress(t)
	counter6.WantProgress(t)
	wantNoTables(t, engine)

	for range 2 {
		tr.alpha.Zap(t, append(append([]string{"checkpoint"}, images...), c.name)...)
		if r := tr.alpha.TryZap(t, "state", c.name); r.Err == nil {
			t.Errorf("the container is there after its checkpoint: %v", r)
		}
		// The clients ask again and again meanwhile. Who asks for a new connection is told at once that nobody is there.
		time.Sleep(time.Second)
		if conn, err := tr.client.DialContext(t.Context(), "tcp", p.Addr(6379)); err == nil {
			conn.Close()
			t.Error("a connection to a container that is gone was accepted")
		} else if !strings.Contains(err.Error(), "refused") {
			t.Errorf("a connection to a container that is gone: %v, want it refused", err)
		}
		c.restore(tr.alpha, images...)
		counter.WantProgress(t)
		counter6.WantProgress(t)
		wantNoTables(t, engine)
	}
	if now := redisInfo(t, tr.client, p.Addr(6379), "run_id"); now[0] != first[0] {
		t.Errorf("redis is %v, was %v", now, first)
	}
	for _, counter := range []*Counter{counter, counter6} {
		r := counter.Stop()
		if r.Err != nil {
			t.Errorf("after %d replies: %v", r.Count, r.Err)
		}
		t.Logf("%d replies on one connection, the worst after %v", r.Count, r.Worst.Took)
	}
	c.end(tr.alpha)
}
