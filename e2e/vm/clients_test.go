package vm

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
)

// replyTimeout bounds the wait for an answer; a move in emulation takes seconds.
const replyTimeout = 3 * time.Minute

// listener asks a teller without a pause, on one connection, and checks every answer: none is lost, repeated or out of order, and no
// clock goes back.
type listener struct {
	conn net.Conn
	stop chan struct{}
	done chan struct{}

	mu       sync.Mutex
	count    int64
	releases []string // kernels that answered, each time another did
	clocks   [2]int64
	samples  []e2e.Sample
	looked   int // at so many samples, by pause
	err      error
}

func newListener(t *testing.T, from e2e.NetNS, address string) *listener {
	t.Helper()
	conn, err := from.Dial(address, 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{conn: conn, stop: make(chan struct{}), done: make(chan struct{})}
	in := bufio.NewReader(conn)
	if err := l.ask(in); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(l.done)
		for {
			select {
			case <-l.stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if err := l.ask(in); err != nil {
				l.mu.Lock()
				l.err = err
				l.mu.Unlock()
				return
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-l.done })
	return l
}

func (l *listener) ask(in *bufio.Reader) error {
	begin := time.Now()
	l.conn.SetDeadline(begin.Add(replyTimeout))
	if _, err := fmt.Fprintln(l.conn, "tell"); err != nil {
		return err
	}
	line, err := in.ReadString('\n')
	if err != nil {
		return fmt.Errorf("after answer %d: %w", l.count, err)
	}
	var n int64
	var release string
	var clocks [2]int64
	if _, err := fmt.Sscan(line, &n, &release, &clocks[0], &clocks[1]); err != nil || n != l.count+1 {
		return fmt.Errorf("answer %q after %d: %v", line, l.count, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, now := range clocks {
		if now <= l.clocks[i] {
			return fmt.Errorf("clock %d went from %d to %d", i, l.clocks[i], now)
		}
	}
	if len(l.releases) == 0 || l.releases[len(l.releases)-1] != release {
		l.releases = append(l.releases, release)
	}
	l.count, l.clocks = n, clocks
	l.samples = append(l.samples, e2e.Sample{At: begin, Took: time.Since(begin)})
	return nil
}

// kernels answers with the kernels that have answered, after waiting for a few more answers.
func (l *listener) kernels(t *testing.T) []string {
	t.Helper()
	var first int64 = -1
	for deadline := time.Now().Add(replyTimeout); ; time.Sleep(10 * time.Millisecond) {
		l.mu.Lock()
		count, releases, err := l.count, append([]string{}, l.releases...), l.err
		l.mu.Unlock()
		if err != nil {
			t.Fatalf("the teller's client: %v", err)
		}
		if first < 0 {
			first = count
		}
		if count >= first+3 {
			return releases
		}
		if time.Now().After(deadline) {
			t.Fatalf("the teller's client: no answer after %d", count)
		}
	}
}

// now is the clocks as the last answer had them.
func (l *listener) now() [2]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clocks
}

// all is all answers so far.
func (l *listener) all() []e2e.Sample {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.samples)
}

// pause is the longest wait for an answer since it was last called.
func (l *listener) pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var worst time.Duration
	for _, s := range l.samples[l.looked:] {
		worst = max(worst, s.Took)
	}
	l.looked = len(l.samples)
	return worst
}

// wantSameClocks runs the teller once more, as a program of its own in the pod, which must find itself in the pod's time: between two
// answers of the pod.
func (l *listener) wantSameClocks(t *testing.T, m *Machine, pod string) {
	t.Helper()
	before := l.now()
	out := m.Exec(t, pod, "/bin/teller", "now")
	l.kernels(t)
	after := l.now()
	var release string
	var clocks [2]int64
	if _, err := fmt.Sscan(out, &release, &clocks[0], &clocks[1]); err != nil {
		t.Fatalf("the program in the pod says %q: %v", out, err)
	}
	for i, now := range clocks {
		if now < before[i] || now > after[i] {
			t.Errorf("clock %d of a program in the pod is %d, not from %d to %d as the pod's", i, now, before[i], after[i])
		}
	}
}

// longest is the longest that a client waited for a reply of those that it asked for from begin to end, and how many replies took more
// than half of that: one, when there was one pause.
func longest(samples []e2e.Sample, begin, end time.Time) (worst time.Duration, pauses int) {
	var in []time.Duration
	for _, s := range samples {
		if s.At.After(begin) && s.At.Before(end) {
			in, worst = append(in, s.Took), max(worst, s.Took)
		}
	}
	for _, took := range in {
		if took > worst/2 {
			pauses++
		}
	}
	return worst, pauses
}

// survivor is a connection to the program that holds one of everything a process can hold.
type survivor struct {
	conn net.Conn
	in   *bufio.Reader
}

func newSurvivor(t *testing.T, from e2e.NetNS, address string) *survivor {
	t.Helper()
	conn, err := from.Dial(address, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &survivor{conn: conn, in: bufio.NewReader(conn)}
}

// wantWhole asks what broke.
func (s *survivor) wantWhole(t *testing.T, when string) {
	t.Helper()
	s.conn.SetDeadline(time.Now().Add(replyTimeout))
	if _, err := fmt.Fprintln(s.conn, "check"); err != nil {
		t.Fatalf("%s: ask survivor: %v", when, err)
	}
	for n := 0; ; n++ {
		line, err := s.in.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: ask survivor: %v", when, err)
		}
		line = strings.TrimSpace(line)
		if line == "" && n > 0 {
			return
		}
		if line != "ok" {
			t.Errorf("%s: %s", when, line)
		}
	}
}
