package pod

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/spec"
)

// ArrivalJob is what the supervisor of a pod that moves in is started with.
type ArrivalJob struct {
	ID        string            `json:"id"`
	Migration string            `json:"migration"`
	From      string            `json:"from"`
	Bundle    *spec.Bundle      `json:"bundle"`
	Record    Record            `json:"record"`
	Network   *network.Config   `json:"network,omitempty"` // as it was on the source, neighbours included
	Mounts    runtime.MountPlan `json:"mounts"`
	HoldBytes int64             `json:"hold_bytes"`
	Rows      uint16            `json:"rows,omitempty"`
	Columns   uint16            `json:"columns,omitempty"`
	Status    string            `json:"status"`   // of the container on the source: running or paused
	Criu      *criu.Binary      `json:"criu"`     // chosen by `zap serve`
	CacheDir  string            `json:"cachedir"` // of CRIU's probe of the kernel
}

// The words that `zap serve` and the supervisor of an arriving pod exchange,
// one JSON object a line.
const (
	ArrivalReady     = "ready"     // supervisor: everything that can be prepared is
	ArrivalAnnounce  = "announce"  // serve: the pod is frozen on the source; its address is ours now
	ArrivalAnnounced = "announced" // supervisor: frames for the pod come here and are held
	ArrivalRestore   = "restore"   // serve: all images are there
	ArrivalPrepared  = "prepared"  // supervisor: the tree is restored and stopped
	ArrivalCommit    = "commit"    // serve
	ArrivalRunning   = "running"   // supervisor
	ArrivalFailed    = "failed"    // supervisor: and everything is cleaned up
	ArrivalAbort     = "abort"     // serve
)

// ArrivalWord is one line between `zap serve` and an arriving pod's supervisor.
type ArrivalWord struct {
	Word       string           `json:"word"`
	Error      string           `json:"error,omitempty"`
	HeldFrames int              `json:"held_frames,omitempty"`
	Timings    map[string]int64 `json:"timings,omitempty"` // microseconds
	Pid        int              `json:"pid,omitempty"`
	Queues     []runtime.Queue  `json:"queues,omitempty"` // with ArrivalRestore
}

// Journal is where an arrival writes its phases, each durable before it acts.
type Journal interface {
	Append(phase string) error
	Remove() error
}

// arrival is the state of a pod that moves in, within its supervisor.
type arrival struct {
	job     *ArrivalJob
	journal Journal
	images  *os.File
	trees   []*os.File
	session *criu.Session
	queues  []runtime.Queue
	cgroup  *cgroup.Cgroup
	hold    *network.Holder
	held    int
	timings map[string]int64

	mu       sync.Mutex
	phase    string
	decided  bool
	verdict  chan bool     // true: commit
	finished chan struct{} // closed when the pod runs or is gone
	failure  error
	conn     net.Conn
}

// Receive restores a pod that moves in and then supervises it as Supervise
// does. conn speaks with `zap serve`; images is the tmpfs directory that CRIU's
// images are in, trees those of the pod's tmpfs mounts, in the order of the job.
// If serve goes away before the pod is prepared, nothing of it stays; after that
// only a commit or an abort ends the wait.
func Receive(ctx context.Context, rt *runtime.Runtime, job *ArrivalJob, journal Journal, conn net.Conn, images *os.File, trees []*os.File, log *slog.Logger) error {
	s := &Supervisor{rt: rt, log: log, id: job.ID, record: job.Record, dir: filepath.Join(rt.Root(), job.ID), ended: make(chan struct{})}
	a := &arrival{
		job: job, journal: journal, images: images, trees: trees, conn: conn, timings: map[string]int64{},
		verdict: make(chan bool, 1), finished: make(chan struct{}), phase: "Accepted",
	}
	s.arrival = a
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	listener, err := s.prepareArrival(ctx)
	if err == nil {
		go s.serve(listener)
		err = s.runArrival(ctx, cancel)
	}
	if err != nil {
		s.discard(ctx)
		a.failure = err
		close(a.finished)
		a.say(ArrivalWord{Word: ArrivalFailed, Error: err.Error()})
		if listener != nil {
			listener.Close()
		}
		return err
	}
	close(a.finished)
	s.watch(context.WithoutCancel(ctx))
	listener.Close()
	return nil
}

func (a *arrival) say(w ArrivalWord) {
	a.conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
	_ = json.NewEncoder(a.conn).Encode(w)
}

// since notes how long a step took.
func (a *arrival) since(step string, begin time.Time) {
	a.mu.Lock()
	a.timings[step] = time.Since(begin).Microseconds()
	a.mu.Unlock()
}

// prepareArrival makes everything that can be made before the pod is frozen.
func (s *Supervisor) prepareArrival(ctx context.Context) (*net.UnixListener, error) {
	a := s.arrival
	if err := s.openStreams(&a.job.Record); err != nil {
		return nil, err
	}
	var err error
	if s.net, err = network.New(); err != nil {
		return nil, err
	}
	if a.job.Network != nil {
		s.record.Network = a.job.Network
		if err := s.net.Set(ctx, *a.job.Network); err != nil {
			return nil, err
		}
		if err := s.net.Gate(ctx); err != nil {
			return nil, err
		}
		if a.hold, err = s.net.Hold(ctx, a.job.HoldBytes); err != nil {
			return nil, err
		}
	}
	if a.cgroup, err = cgroup.Create(a.job.Bundle.Spec.Linux.CgroupsPath, a.job.Bundle.Spec.Linux.Resources); err != nil {
		return nil, err
	}
	if err := a.job.Mounts.Settle(a.cgroup); err != nil {
		return nil, err
	}
	if err := s.startSession(ctx); err != nil {
		return nil, err
	}
	return listenControl(s.dir)
}

// startSession starts CRIU with everything in place that it will look for.
func (s *Supervisor) startSession(ctx context.Context) (err error) {
	a := s.arrival
	mounts, err := runtime.RestoreMounts(a.job.Bundle, &a.job.Mounts, a.trees)
	if err != nil {
		return err
	}
	defer func() {
		for _, m := range mounts {
			m.Tree.Close()
		}
	}()
	env := criu.Env{
		NetNS: s.net.File(), JoinFiles: a.cgroup.JoinFiles(), Cache: a.job.CacheDir, Mounts: mounts, Log: s.log,
		PrivateTmp: !a.job.Mounts.Uses("/tmp"),
	}
	for _, ns := range a.job.Bundle.Spec.Linux.Namespaces {
		env.CgroupNS = env.CgroupNS || ns.Type == specs.CgroupNamespace
	}
	for _, f := range s.stream.child {
		if f != nil {
			env.Files = append(env.Files, f)
		}
	}
	a.session, err = criu.Start(ctx, a.job.Criu, env)
	return err
}

// runArrival follows serve's words until the pod runs.
func (s *Supervisor) runArrival(ctx context.Context, cancel context.CancelFunc) error {
	a := s.arrival
	words := make(chan string)
	go a.listen(ctx, cancel, words)
	a.say(ArrivalWord{Word: ArrivalReady})
	for {
		select {
		case <-ctx.Done():
			return errors.New("zap serve went away")
		case word := <-words:
			switch word {
			case ArrivalAnnounce:
				if err := s.takeAddress(ctx); err != nil {
					return err
				}
				a.say(ArrivalWord{Word: ArrivalAnnounced})
			case ArrivalRestore:
				return s.restore(ctx)
			default:
				return fmt.Errorf("zap serve said %q out of turn", word)
			}
		}
	}
}

// listen reads serve's words. The verdict may come at any time once the pod is
// prepared; the end of the connection is an abort only before that.
func (a *arrival) listen(ctx context.Context, cancel context.CancelFunc, words chan<- string) {
	reader := bufio.NewReader(a.conn)
	for {
		line, err := readLine(reader)
		var w ArrivalWord
		if err == nil {
			err = json.Unmarshal(line, &w)
		}
		if err != nil {
			a.mu.Lock() // enter holds it while a phase becomes durable
			if a.phase != "Prepared" && a.phase != "Running" {
				cancel()
			}
			a.mu.Unlock()
			return
		}
		switch w.Word {
		case ArrivalCommit, ArrivalAbort:
			if !a.decide(w.Word == ArrivalCommit) {
				cancel() // there is nothing to commit yet
			}
			continue
		}
		if w.Word == ArrivalRestore {
			a.queues = w.Queues // the channel hands it over
		}
		select {
		case words <- w.Word:
		case <-ctx.Done():
			return
		}
	}
}

// decide gives the verdict if the pod is prepared and none was given before.
func (a *arrival) decide(commit bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.phase != "Prepared" || a.decided {
		return a.decided
	}
	a.decided = true
	a.verdict <- commit
	return true
}

// takeAddress attaches the pod's link and tells the network where it is now.
// Frames for the pod are held from here on.
func (s *Supervisor) takeAddress(ctx context.Context) error {
	if s.record.Network == nil {
		return nil
	}
	begin := time.Now()
	defer s.arrival.since("announce", begin)
	if err := s.net.Attach(ctx); err != nil {
		return err
	}
	return s.net.Announce(ctx)
}

// restore lets CRIU restore the tree and parks it until the verdict.
func (s *Supervisor) restore(ctx context.Context) error {
	a := s.arrival
	begin := time.Now()
	request := &runtime.RestoreRequest{Bundle: a.job.Bundle, Mounts: &a.job.Mounts, Images: a.images}
	for i, name := range a.job.Record.Streams {
		if name != "" && s.stream.child[i] != nil {
			request.Streams = append(request.Streams, runtime.Stream{Name: name, FD: a.session.FD(i)})
		}
	}
	committed := false
	callbacks := criu.Callbacks{
		SetupNamespaces: func(pid int) error { return runtime.RestoreQueues(pid, a.queues) },
		PostRestore:     func(pid int) error { s.pid = pid; return nil },
		PreResume: func() error {
			a.since("restore", begin)
			if err := s.park(ctx); err != nil {
				return err
			}
			committed = true
			return nil
		},
	}
	if a.job.Record.TTY {
		callbacks.OrphanPtsMaster = s.stream.setMaster
	}
	_, err := a.session.Restore(ctx, runtime.RestoreOptions(request), callbacks)
	if !committed {
		if a.failure != nil {
			return a.failure
		}
		if err == nil {
			err = errors.New("criu restored the pod without asking")
		}
		return err
	}
	// From here on the pod lives here whatever happens.
	resumed := time.Now()
	if err != nil {
		s.log.Error("restore", "pod", s.id, "error", err.Error())
	}
	return s.settle(context.WithoutCancel(ctx), resumed)
}

// park is called when every step that can fail is behind: it journals
// Prepared and waits for the verdict, for as long as it takes.
func (s *Supervisor) park(ctx context.Context) error {
	a := s.arrival
	// Should this process or CRIU die here, CRIU's hold on the tree ends and it would
	// run: the freezer has it then. CRIU is in the same cgroup and stands still too.
	err := a.cgroup.FreezeNow()
	if err == nil {
		err = a.enter(ctx, "Prepared")
	}
	if err != nil {
		a.failure = err
		s.silence()
		return err
	}
	a.say(ArrivalWord{Word: ArrivalPrepared, Pid: s.pid, Timings: a.timings})
	if commit := <-a.verdict; !commit {
		a.failure = errors.New("aborted by the source")
		s.silence()
		return a.failure
	}
	if err := a.enter(context.WithoutCancel(ctx), "Running"); err != nil {
		s.log.Error("journal", "pod", s.id, "error", err.Error())
	}
	begin := time.Now()
	if a.hold != nil {
		held, err := a.hold.Release(context.WithoutCancel(ctx))
		if err != nil {
			s.log.Error("release held frames", "pod", s.id, "error", err.Error())
		}
		a.held = held
	}
	a.since("release", begin)
	if err := a.cgroup.ThawNow(); err != nil {
		s.log.Error("thaw", "pod", s.id, "error", err.Error())
	}
	return nil
}

// enter journals a phase, unless the move was called off.
func (a *arrival) enter(ctx context.Context, phase string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ctx.Err() != nil {
		return errors.New("the move was called off")
	}
	if err := a.journal.Append(phase); err != nil {
		return err
	}
	a.phase = phase
	return nil
}

// silence kills the restored tree while its gate is closed, so that nothing
// that its sockets say when they die leaves the host.
func (s *Supervisor) silence() {
	if s.arrival.hold != nil {
		s.arrival.hold.Discard()
	}
	_ = s.arrival.cgroup.KillNow()
	_ = s.arrival.cgroup.ThawNow()
}

// settle records the pod, which has resumed, as running here.
func (s *Supervisor) settle(ctx context.Context, resumed time.Time) error {
	a := s.arrival
	s.stream.start()
	if a.job.Rows > 0 {
		_ = s.stream.resize(a.job.Rows, a.job.Columns)
	}
	s.record.Supervisor = Self()
	s.record.Moves++
	s.record.From = a.job.From
	s.record.Streams = s.stream.identities()
	s.joinNetwork(a.job.Bundle.Spec)
	extra, err := json.Marshal(&s.record)
	if err == nil {
		s.pod, err = s.rt.Adopt(ctx, s.id, a.job.Bundle, s.pid, a.cgroup, extra)
	}
	if err != nil {
		s.log.Error("record pod", "pod", s.id, "error", err.Error())
	}
	a.since("settle", resumed)
	a.say(ArrivalWord{Word: ArrivalRunning, Pid: s.pid, HeldFrames: a.held, Timings: a.timings})
	for _, f := range append(a.trees, a.images) {
		f.Close()
	}
	_ = a.session.Close()
	if err := a.journal.Remove(); err != nil {
		s.log.Error("end journal", "pod", s.id, "error", err.Error())
	}
	return nil
}

// discard removes everything of a pod that did not arrive, its directory included.
func (s *Supervisor) discard(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	a := s.arrival
	if a.hold != nil {
		a.hold.Discard()
	}
	if a.cgroup != nil {
		_ = a.cgroup.KillNow()
	}
	if a.session != nil {
		_ = a.session.Close()
	}
	if a.cgroup != nil {
		_ = a.cgroup.Kill(ctx)
	}
	if s.pid > 0 {
		var status unix.WaitStatus
		_, _ = unix.Wait4(s.pid, &status, unix.WNOHANG, nil)
	}
	if a.cgroup != nil {
		_ = a.cgroup.Delete(ctx)
	}
	if s.net != nil {
		_ = s.net.Remove(ctx)
		_ = s.net.Close()
	}
	if s.stream != nil {
		s.stream.close()
		_ = s.stream.log.close()
	}
	_ = os.RemoveAll(s.dir)
}

// doArrival answers a request about the move that brings the pod.
func (s *Supervisor) doArrival(r Request) *Answer {
	a := s.arrival
	if a == nil {
		return &Answer{Error: "the pod did not arrive by a move"}
	}
	if r.Migration != "" && r.Migration != a.job.Migration {
		return &Answer{Error: fmt.Sprintf("the pod arrives by move %s, not %s", a.job.Migration, r.Migration)}
	}
	if r.Op != OpArrival {
		commit := r.Op == OpCommit
		a.mu.Lock()
		prepared := a.phase == "Prepared" || a.phase == "Running"
		a.mu.Unlock()
		if !prepared {
			return &Answer{Error: "the pod is not prepared yet"}
		}
		a.decide(commit)
		<-a.finished
		if commit && a.failure != nil {
			return &Answer{Error: a.failure.Error()}
		}
		if !commit && a.failure == nil {
			return &Answer{Error: "the pod runs here already"}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return &Answer{Migration: a.job.Migration, Phase: a.phase, HeldFrames: a.held, Pid: s.pid}
}
