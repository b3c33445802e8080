package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
)

// Numbers of the two pods, the last part of their addresses.
const (
	zapNumber    = 50
	byhandNumber = 51
)

const (
	think  = time.Millisecond       // of the client, after each reply
	before = 500 * time.Millisecond // how long a client counts before a move
	after  = time.Second            // and after it: who by hand loses packets waits for TCP's timers
)

// move is one move and what it has cost.
type move struct {
	worst time.Duration // the client's worst reply
	total time.Duration // of the command
	usage
	pause, memory float64            // zap: milliseconds of the pause, bytes a second of its memory
	zeros         float64            // zap: bytes a second of zeros through the same kind of connection, just before
	steps         map[string]float64 // by hand: milliseconds of each
}

// sizeResult is what moving redises of one size has cost.
type sizeResult struct {
	mb                int
	zap, stop, byhand []move // stop: zap with --mode stop, where that is not what it does anyway
	missing           string // why there is nothing
}

// preFrom is from which size on zap sends memory ahead; it is measured without that, too.
const preFrom = 64

// benchMoves measures all sizes, each in a lab of its own, and hands on what it has found.
func benchMoves(t testing.TB, s settings, found func(sizeResult)) {
	for _, mb := range s.sizes {
		if need, free := 5*mb+1024, available(); free < need {
			found(sizeResult{mb: mb, missing: fmt.Sprintf("needs %d MB of free memory, this machine has %d", need, free)})
			continue
		}
		found(benchSize(t, s, mb))
	}
}

// available is the machine's free memory in MB.
func available() int {
	var kib int
	fmt.Sscan(field("/proc/meminfo", "MemAvailable:"), &kib)
	return kib >> 10
}

// contest is one size's two pods, which take turns.
type contest struct {
	t      *sub
	mb     int
	lab    *e2e.Lab
	client e2e.NetNS
	meter  *meter
	zap    e2e.Pod
	byhand *byhand
	serves map[*e2e.Host]*e2e.Server
	count  int
}

func benchSize(t testing.TB, s settings, mb int) sizeResult {
	r := sizeResult{mb: mb}
	scoped(t, func(t *sub) {
		c := newContest(t, mb, s.only != "byhand")
		alpha, beta := c.lab.Host("alpha"), c.lab.Host("beta")
		for i := range s.moves {
			from, to := alpha, beta
			if i%2 == 1 {
				from, to = beta, alpha
			}
			fmt.Fprintf(os.Stderr, "%5d MB, move %2d of %d", mb, i+1, s.moves)
			if s.only != "byhand" {
				var rate float64
				if mb >= 1024 {
					rate = zerosBetween(t, from, to, int64(mb)<<20)
				}
				if mb < preFrom {
					r.zap = append(r.zap, c.moveZap(from, to))
				} else { // there and back
					r.zap = append(r.zap, c.moveZap(alpha, beta))
					z := c.moveZap(beta, alpha, "--mode", "stop")
					z.zeros = rate
					r.stop = append(r.stop, z)
				}
				z := r.zap[len(r.zap)-1]
				fmt.Fprintf(os.Stderr, "   zap: reply %5.1f ms, pause %5.1f ms, total %5.0f ms", ms(z.worst), z.pause, ms(z.total))
			}
			h := c.moveByhand(from, to)
			r.byhand = append(r.byhand, h)
			fmt.Fprintf(os.Stderr, "   by hand: reply %4.0f ms, total %4.0f ms\n", ms(h.worst), ms(h.total))
		}
	})
	return r
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func newContest(t *sub, mb int, both bool) *contest {
	t.Helper()
	m := newMeter(t)
	l := e2e.NewLab(t)
	c := &contest{t: t, mb: mb, lab: l, client: l.NewClient(), meter: m, serves: map[*e2e.Host]*e2e.Server{}}
	for _, h := range l.Hosts {
		h.Wrap, h.Quiet = c.meter.wrap(), true
		if both {
			c.serves[h] = h.Serve(t)
		}
	}
	rootfs := e2e.RedisRootfs(t)
	c.zap = e2e.Pod{Name: l.PodName("zap"), Rootfs: rootfs, Number: zapNumber, Args: redisArgs(t)}
	hand := c.zap
	hand.Name, hand.Number = l.PodName("byhand"), byhandNumber
	alpha := l.Host("alpha")
	c.byhand = newByhand(t, l, c.meter, hand)
	c.byhand.start(alpha)
	if both {
		alpha.RunPod(t, c.zap)
	}
	c.warm(both)
	fill(t, c.client, hand.Addr(6379), mb<<20)
	if both {
		fill(t, c.client, c.zap.Addr(6379), mb<<20)
	}
	return c
}

// warm moves both pods there and back once, still empty: afterwards both hosts have the root file system, CRIU's probe of the
// kernel and everything that was read from disk.
func (c *contest) warm(both bool) {
	c.t.Helper()
	alpha, beta := c.lab.Hosts[0], c.lab.Hosts[1]
	for _, hop := range [][2]*e2e.Host{{alpha, beta}, {beta, alpha}} {
		c.byhand.move(hop[0], hop[1])
		if both {
			hop[0].Migrate(c.t, c.zap.Name, hop[1])
		}
	}
}

// watch has a client count on one connection while f moves the pod, and answers with its worst reply.
func (c *contest) watch(p e2e.Pod, f func()) time.Duration {
	c.t.Helper()
	c.count++
	counter := e2e.NewCounter(c.t, c.client, p.Addr(6379), fmt.Sprintf("count:%d", c.count), think)
	time.Sleep(before)
	f()
	time.Sleep(after)
	counter.WantProgress(c.t)
	r := counter.Stop()
	if r.Err != nil {
		c.t.Fatalf("client of %s: %v", p.Name, r.Err)
	}
	return r.Worst.Took
}

// moveZap moves zap's pod.
func (c *contest) moveZap(from, to *e2e.Host, flags ...string) (m move) {
	c.t.Helper()
	watched := map[string]int{}
	for _, h := range []*e2e.Host{from, to} {
		pid := c.serves[h].Pid
		forgetPeak(pid)
		watched["zap serve on "+h.Name] = pid
	}
	if pid := c.supervisor(from); pid != 0 {
		forgetPeak(pid)
		watched["supervisor on the source"] = pid
	}
	m.worst = c.watch(c.zap, func() {
		c.meter.beginZap(from, to, c.zap.Name, watched)
		begin := time.Now()
		moving := from.StartMove(c.t, c.zap.Name, to, e2e.MoveOptions{Args: flags})
		c.meter.sampler.join <- watch{"zap migrate", moving.Pid}
		r := moving.Wait()
		m.total = time.Since(begin)
		if r.Err != nil || moving.Final.Result != "migrated" {
			c.t.Fatalf("migrate %s from %s to %s: %v", c.zap.Name, from.Name, to.Name, r)
		}
		if pid := c.supervisor(to); pid != 0 {
			c.meter.sampler.join <- watch{"supervisor on the target", pid}
			time.Sleep(20 * time.Millisecond)
		}
		m.usage = c.meter.endZap(to, c.zap.Name)
		m.pause = moving.Final.PauseMS
		m.memory = memoryRate(moving.Final)
	})
	return m
}

// memoryRate is how fast zap's pages went, in bytes a second: from the frozen pod to the target's word that it has them all.
func memoryRate(final e2e.Event) float64 {
	var r struct{ CRIU map[string]float64 }
	if json.Unmarshal([]byte(final.Raw), &r) != nil || r.CRIU["memory"] <= r.CRIU["freeze"] {
		return 0
	}
	return float64(final.MemoryBytes) / (r.CRIU["memory"] - r.CRIU["freeze"]) * 1000
}

// supervisor is the process that has zap's pod on a host, 0 if it can't be found.
func (c *contest) supervisor(h *e2e.Host) int {
	all, err := e2e.Descendants()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, p := range all {
		if strings.Contains(p.Args, h.Root+" supervise") {
			return p.Pid
		}
	}
	return 0
}

// moveByhand moves runc's container.
func (c *contest) moveByhand(from, to *e2e.Host) (m move) {
	c.t.Helper()
	m.worst = c.watch(c.byhand.pod, func() {
		c.meter.begin(from)
		m.total, m.steps = c.byhand.move(from, to)
		m.usage = c.meter.end()
	})
	return m
}

// redisArgs start a redis that saves nothing on its own.
func redisArgs(t testing.TB) []string {
	path := mustFind(t, "redis-server")
	return []string{path, "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--appendonly", "no"}
}
