package e2e

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// impatience is how long the two sides of a move may be silent in these tests before they count as lost.
const impatience = "2s"

// settleTime bounds how long both hosts may take to agree after a fault is over.
const settleTime = 60 * time.Second

// scene is a move that stands still in one phase: the process that entered it has stopped itself.
type scene struct {
	*trip
	t       *testing.T
	pod     Pod
	counter *Counter
	server  *Server // beta's
	move    *Move
	mode    string          // of the move; empty: pre
	stopped *Process        // the one that stands still
	had     map[string]bool // cgroups before the move
	undo    []func()        // what heals the fault
}

// fault is something that goes wrong. strike happens while the move stands still, heal when zap migrate has ended. strike
// answers false when there is nothing to strike in this phase.
type fault struct {
	name   string
	where  []string // phases in which there must be something to strike; nil: all
	strike func(s *scene) bool
	heal   func(s *scene)
}

var phases = []string{
	"source:Offered", "source:PreCopying", "source:Frozen", "source:Sent", "source:Committed",
	"target:Accepted", "target:Receiving", "target:Restoring", "target:Prepared", "target:Running",
}

var faults = []fault{
	{
		name:   "target's link cut",
		strike: func(s *scene) bool { s.CutLink(s.beta); return true },
		heal:   func(s *scene) { s.RestoreLink(s.beta) },
	},
	{
		name:   "source's link cut",
		strike: func(s *scene) bool { s.CutLink(s.alpha); return true },
		heal:   func(s *scene) { s.RestoreLink(s.alpha) },
	},
	{
		name:   "serve killed",
		strike: func(s *scene) bool { s.server.Kill(); return true },
		heal:   func(s *scene) { s.server = s.beta.Serve(s.t) },
	},
	{
		name:   "serve killed and back at once",
		strike: func(s *scene) bool { s.server.Kill(); s.server = s.beta.Serve(s.t); return true },
	},
	{
		name: "migrate killed",
		strike: func(s *scene) bool {
			if err := unix.Kill(s.move.Pid, unix.SIGKILL); err != nil {
				s.t.Fatal(err)
			}
			return true
		},
	},
	{
		name:   "source's CRIU killed",
		where:  []string{"source:Frozen", "source:Sent", "target:Prepared"},
		strike: func(s *scene) bool { return s.killCriu(true) },
	},
	{
		name:   "target's CRIU killed",
		where:  []string{"target:Prepared"},
		strike: func(s *scene) bool { return s.killCriu(false) },
	},
	{
		name: "target's disk full",
		strike: func(s *scene) bool {
			s.undo = append(s.undo, s.beta.FillRoot(s.t, 0))
			return true
		},
		heal: func(s *scene) { s.undoAll() },
	},
	{
		name:   "target's memory limit too small",
		where:  []string{"target:Restoring"},
		strike: func(s *scene) bool { return s.shrinkMemory() },
	},
}

// TestFaults lets every fault fall into every phase of a move. Afterwards exactly one copy of the pod runs, the client's
// connection goes on, nothing is left anywhere, and a second try succeeds.
func TestFaults(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			for _, phase := range phases {
				t.Run(phase, func(t *testing.T) { tryFault(t, f, phase) })
			}
		})
	}
}

func tryFault(t *testing.T, f fault, phase string) {
	s := newScene(t)
	s.stopAt(phase)
	if !f.strike(s) {
		if f.where == nil || slices.Contains(f.where, phase) {
			t.Fatalf("%s: nothing to strike in phase %s", f.name, phase)
		}
		s.goOn()
		s.move.Wait()
		t.Skipf("there is nothing to strike in phase %s", phase)
	}
	s.goOn()
	r := s.move.Wait()
	t.Logf("zap migrate ended with code %d: %s", r.Code, lastLine(r.Stderr))
	if strings.Contains(r.Stderr, "panic:") || strings.Contains(tail(s.server.log), "panic:") {
		t.Errorf("it panicked: %v", r)
	}
	if f.heal != nil {
		f.heal(s)
	}
	winner, loser := s.settle()
	s.counter.WantProgress(t)
	s.wantNothingLeft(t, loser)
	winner.Migrate(t, s.pod.Name, loser, "--idle", impatience)
	s.counter.WantProgress(t)
	s.wantNothingLeft(t, winner)
	s.wantOnlyOn(t, loser, s.pod.Name)
	if r := s.counter.Stop(); r.Err != nil {
		t.Errorf("the client: %v", r.Err)
	}
	loser.Zap(t, "pod", "rm", "--force", s.pod.Name)
	s.wantNothingLeft(t, loser)
}

func lastLine(text string) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return all[len(all)-1]
}

// newScene makes two hosts, of which beta has little disk, and a pod with a client.
func newScene(t *testing.T) *scene {
	t.Helper()
	l := NewLab(t)
	tr := &trip{Lab: l, alpha: l.Host("alpha"), beta: l.Host("beta"), client: l.NewClient(), before: map[*Host]Inventory{}}
	tr.beta.BoundRoot(t, 256<<20)
	for _, h := range l.Hosts {
		h.ServeFlags = []string{"--idle", impatience}
		h.Serve(t)
	}
	for _, h := range l.Hosts {
		tr.before[h] = h.Inventory(t)
	}
	s := &scene{trip: tr, t: t, server: tr.beta.servers[0]}
	t.Cleanup(s.undoAll)
	s.pod = Pod{Name: tr.PodName("fault"), Rootfs: RedisRootfs(t), Number: 80, Args: RedisArgs()}
	tr.alpha.RunPod(t, s.pod)
	FillRedis(t, tr.client, s.pod.Addr(6379), 20<<20)
	s.counter = NewCounter(t, tr.client, s.pod.Addr(6379), "n", time.Millisecond)
	s.counter.WantProgress(t)
	return s
}

// stopAt starts the move and waits until it stands still in the phase, side:Name.
func (s *scene) stopAt(phase string) {
	s.t.Helper()
	stop := "ZAP_STOP_AT=" + phase
	before, err := s.cgroups()
	if err != nil {
		s.t.Fatal(err)
	}
	s.had = map[string]bool{}
	for _, dir := range before {
		s.had[dir] = true
	}
	o := MoveOptions{Args: []string{"--idle", impatience, "--mode", cmp.Or(s.mode, "pre")}}
	if strings.HasPrefix(phase, "source:") {
		o.Env = []string{stop}
	} else {
		s.server.Stop()
		s.server = s.beta.Serve(s.t, stop)
	}
	s.move = s.alpha.StartMove(s.t, s.pod.Name, s.beta, o)
	WaitFor(s.t, 30*time.Second, "the move to stop at "+phase, func() bool {
		s.stopped = stoppedZap()
		if s.stopped == nil && s.move.Ended() {
			s.t.Fatalf("the move ended before phase %s: %v", phase, s.move.Wait())
		}
		if s.stopped != nil {
			s.t.Logf("stopped in phase %s: %v", phase, *s.stopped)
		}
		return s.stopped != nil
	})
}

// stoppedZap is the process of zap that has stopped itself: zap migrate, zap serve, or a pod's supervisor.
func stoppedZap() *Process {
	all, err := descendants()
	if err != nil {
		return nil
	}
	for _, p := range all {
		if p.State == 'T' && strings.Contains(p.Args, "--root") {
			return &p
		}
	}
	return nil
}

// goOn lets the process that stands still go on, and any other that stops itself later: a phase may be entered by more than
// one, and by the second try too.
func (s *scene) goOn() {
	if err := signalProcess(*s.stopped, unix.SIGCONT); err != nil {
		s.t.Fatal(err)
	}
	over := make(chan struct{})
	s.t.Cleanup(func() { close(over) })
	go func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(50 * time.Millisecond):
			}
			if p := stoppedZap(); p != nil {
				signalProcess(*p, unix.SIGCONT)
			}
		}
	}()
}

func (s *scene) undoAll() {
	for _, f := range s.undo {
		f()
	}
	s.undo = nil
}

// killCriu kills the CRIU of one side. The source's is below zap migrate.
func (s *scene) killCriu(source bool) bool {
	s.t.Helper()
	all := mustDescendants(s.t)
	below := map[int]bool{s.move.Pid: true} // parents come first
	criu := map[int]bool{}
	found := false
	for _, p := range all {
		below[p.Pid] = below[p.Pid] || below[p.PPid]
		if p.Comm != "criu" || criu[p.PPid] {
			continue
		}
		if criu[p.Pid] = true; below[p.Pid] != source {
			continue
		}
		found = true
		if err := signalProcess(p, unix.SIGKILL); err != nil {
			s.t.Fatal(err)
		}
	}
	return found
}

// shrinkMemory takes the target's memory away: the pod's cgroup there gets a limit just above what it uses so far.
func (s *scene) shrinkMemory() bool {
	s.t.Helper()
	now, err := s.cgroups()
	if err != nil {
		s.t.Fatal(err)
	}
	shrunk := false
	for _, dir := range now {
		for limit, usage := range map[string]string{"memory.limit_in_bytes": "memory.usage_in_bytes", "memory.max": "memory.current"} {
			text, err := os.ReadFile(filepath.Join(dir, usage))
			if err != nil || s.had[dir] {
				continue
			}
			used, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, limit), []byte(strconv.FormatInt(used+2<<20, 10)), 0); err != nil {
				s.t.Fatalf("shrink the target's memory: %v", err)
			}
			shrunk = true
		}
	}
	return shrunk
}

// settle waits until the hosts agree on where the pod runs, and that it runs once.
func (s *scene) settle() (winner, loser *Host) {
	s.t.Helper()
	var state string
	for deadline := time.Now().Add(settleTime); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		a, b := podStatus(s.t, s.alpha, s.pod.Name), podStatus(s.t, s.beta, s.pod.Name)
		copies := s.copies()
		state = fmt.Sprintf("alpha: %q, beta: %q, %d copies", a, b, copies)
		switch {
		case copies != 1:
		case a == "running" && b == "":
			return s.alpha, s.beta
		case b == "running" && a == "":
			return s.beta, s.alpha
		}
	}
	s.t.Fatalf("the hosts don't agree where the pod runs: %s", state)
	return nil, nil
}

// copies counts the pod's programs, running or not.
func (s *scene) copies() int {
	n := 0
	for _, p := range mustDescendants(s.t) {
		if p.Comm == "redis-server" {
			n++
		}
	}
	return n
}

// TestResolve cuts two hosts off from each other while the target is prepared and can't know what the source has decided.
// It stays parked, with no copy running, until a person decides; when the hosts meet again they agree.
func TestResolve(t *testing.T) {
	for _, tt := range []struct {
		verdict, stop string
	}{
		{"commit", "source:Committed"}, // the source has given the pod away
		{"abort", "target:Prepared"},   // the source has not heard that it could
	} {
		t.Run(tt.verdict, func(t *testing.T) {
			s := newScene(t)
			s.stopAt(tt.stop)
			s.CutLink(s.beta)
			s.goOn()
			r := s.move.Wait()
			t.Logf("zap migrate ended with code %d: %s", r.Code, lastLine(r.Stderr))
			if r.Code == 0 {
				t.Errorf("zap migrate says it went through: %v", r)
			}
			if got := s.targetPhase(); got != "Prepared" {
				t.Errorf("the target is %q, not prepared", got)
			}
			if got := podStatus(t, s.beta, s.pod.Name); got == "running" {
				t.Error("the target lets the pod run without being told to")
			}
			s.beta.Zap(t, "migrate", "--resolve", tt.verdict, s.pod.Name)
			if tt.verdict == "commit" {
				WaitFor(t, 30*time.Second, "the pod to run", func() bool { return podStatus(t, s.beta, s.pod.Name) == "running" })
			}
			s.RestoreLink(s.beta)
			winner, loser := s.settle()
			if (winner == s.beta) != (tt.verdict == "commit") {
				t.Errorf("the pod runs on %s after %s", winner.Name, tt.verdict)
			}
			s.counter.WantProgress(t)
			s.wantNothingLeft(t, loser)
		})
	}
}

// targetPhase is the last phase in the journal of the pod on beta.
func (s *scene) targetPhase() string {
	data, err := os.ReadFile(filepath.Join(s.beta.Root, s.pod.Name, "journal"))
	if err != nil {
		return ""
	}
	last := ""
	for line := range bytes.Lines(data) {
		if _, rest, ok := strings.Cut(string(line), `"phase":"`); ok {
			last, _, _ = strings.Cut(rest, `"`)
		}
	}
	return last
}

// TestClocksApart moves a pod between hosts that were started at different times: the clocks that count from then on differ
// by weeks, and the pod must not notice.
func TestClocksApart(t *testing.T) {
	l := NewLab(t)
	tr := &trip{Lab: l, alpha: l.Host("alpha"), beta: l.Host("beta"), client: l.NewClient(), before: map[*Host]Inventory{}}
	clocks := l.Path("time")
	if err := os.WriteFile(clocks, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.run("unshare", "--time="+clocks, "--monotonic", "3000000", "--boottime", "4000000", "true")
	tr.beta.Wrap = []string{"nsenter", "--time=" + clocks, "--"}
	for _, h := range l.Hosts {
		h.Serve(t)
	}
	for _, h := range l.Hosts {
		tr.before[h] = h.Inventory(t)
	}
	if got := strings.Fields(tr.beta.Zap(t, "--version")); len(got) == 0 {
		t.Fatal("no version")
	}
	there, here := uptime(t, tr.beta), uptime(t, tr.alpha)
	if there-here < 3_000_000 {
		t.Fatalf("beta is up for %d s, alpha for %d: the clocks are not apart", there, here)
	}
	survive(t, tr, Pod{Name: tr.PodName("clocks"), Rootfs: ShellRootfs(t), Number: 81, Args: []string{"/bin/survivor"}})
}

// uptime is how long a host is up, in seconds.
func uptime(t *testing.T, h *Host) int64 {
	t.Helper()
	r := h.Try("cat", "/proc/uptime")
	var seconds, idle float64
	if _, err := fmt.Sscan(r.Stdout, &seconds, &idle); err != nil {
		t.Fatalf("read uptime: %v: %v", err, r)
	}
	return int64(seconds)
}
