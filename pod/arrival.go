package pod

import (
	"bufio"
	"context"
	"encoding/json"
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
	ArrivalFiles     = "files"     // serve: the pod's files are there, but for what still changes
	ArrivalReady     = "ready"     // supervisor: everything that can be prepared is
	ArrivalAnnounce  = "announce"  // serve: the pod is frozen on the source; its address is ours now
	ArrivalAnnounced = "announced" // supervisor: frames for the pod come here and are held
	ArrivalRestore   = "restore"   // serve: all images are there
	ArrivalPrepared  = "prepared"  // supervisor: the tree is restored and stopped
	ArrivalConfirm   = "confirm"   // serve: is it prepared still?
	ArrivalConfirmed = "confirmed" // supervisor: it is
	ArrivalCommit    = "commit"    // serve
	ArrivalRunning   = "running"   // supervisor
	ArrivalFailed    = "failed"    // supervisor: and everything is cleaned up
	ArrivalAbort     = "abort"     // serve
)

// StageRestore is the stage of an arrival at which CRIU could not restore.
const StageRestore = "restore"

// ArrivalWord is one line between `zap serve` and an arriving pod's supervisor.
type ArrivalWord struct {
	Word       string           `json:"word"`
	Error      string           `json:"error,omitempty"`
	Stage      string           `json:"stage,omitempty"` // with ArrivalFailed: StageRestore or nothing
	HeldFrames int              `json:"held_frames,omitempty"`
	Timings    map[string]int64 `json:"timings,omitempty"` // microseconds
	Pid        int              `json:"pid,omitempty"`
	Queues     []runtime.Queue  `json:"queues,omitempty"` // with ArrivalRestore
}

// ArrivalConn is an arriving pod's connection to `zap serve`, and what was read of it.
type ArrivalConn struct {
	net.Conn
	Lines *bufio.Reader
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

	pending *runtime.Adoption // the pod's state, before the verdict
	tight   bool              // the memory limit has to wait until CRIU has ended
	cancel  context.CancelCauseFunc
	conn    *ArrivalConn
	words   chan ArrivalWord // of serve

	mu       sync.Mutex
	phase    string
	decided  bool
	away     bool          // the link was taken out of the bridge while nobody knows where the pod will be
	verdict  chan bool     // true: commit
	finished chan struct{} // closed when the pod runs or is gone
	failure  error         // valid after that
}

// Phases of an arrival, as package migrate calls them.
const (
	phaseAccepted  = "Accepted"
	phasePrepared  = "Prepared"
	phaseRunning   = "Running"
	phaseDiscarded = "Discarded"
)

// Receive restores a pod that moves in and then supervises it as Supervise
// does. conn speaks with `zap serve`; images is the tmpfs directory that CRIU's
// images are in, trees those of the pod's tmpfs mounts, in the order of the job.
// If serve goes away before the pod is prepared, nothing of it stays; after that
// only a commit or an abort ends the wait.
func Receive(ctx context.Context, rt *runtime.Runtime, job *ArrivalJob, journal Journal, conn *ArrivalConn, images *os.File, trees []*os.File, log *slog.Logger) error {
	s := &Supervisor{rt: rt, log: log, id: job.ID, record: job.Record, dir: filepath.Join(rt.Root(), job.ID), ended: make(chan struct{})}
	a := &arrival{
		job: job, journal: journal, images: images, trees: trees, conn: conn, timings: map[string]int64{},
		verdict: make(chan bool, 1), finished: make(chan struct{}), phase: phaseAccepted,
	}
	s.arrival = a
	ctx, a.cancel = context.WithCancelCause(ctx)
	defer a.cancel(nil)
	a.words = make(chan ArrivalWord)
	go s.listen(ctx, a.words)
	listener, err := s.prepareArrival(ctx)
	if err == nil {
		s.serve(listener)
		err = s.runArrival(ctx)
	}
	a.failure = err
	if err != nil {
		s.discard(ctx)
		close(a.finished)
		w := ArrivalWord{Word: ArrivalFailed, Error: err.Error()}
		if criu.InRestore(err) {
			w.Stage = StageRestore
		}
		a.say(w)
		if listener != nil {
			listener.Close()
		}
		s.finishAnswers()
		return err
	}
	close(a.finished)
	a.conn.Close()
	s.watch(context.WithoutCancel(ctx))
	listener.Close()
	s.finishAnswers()
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
	if a.cgroup, err = cgroup.Create(a.job.Bundle.Spec.Linux.CgroupsPath, withoutMemory(a.job.Bundle.Spec.Linux.Resources)); err != nil {
		return nil, err
	}
	if err := a.job.Mounts.Settle(a.cgroup); err != nil {
		return nil, err
	}
	if err := s.awaitFiles(ctx); err != nil {
		return nil, err
	}
	if err := s.startSession(ctx); err != nil {
		return nil, err
	}
	return listenControl(s.dir)
}

// awaitFiles waits until the pod's root can be mounted.
func (s *Supervisor) awaitFiles(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case w := <-s.arrival.words:
		if w.Word != ArrivalFiles {
			return fmt.Errorf("zap serve said %q out of turn", w.Word)
		}
		return nil
	}
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
func (s *Supervisor) runArrival(ctx context.Context) error {
	a := s.arrival
	a.say(ArrivalWord{Word: ArrivalReady})
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case w := <-a.words:
			switch w.Word {
			case ArrivalAnnounce:
				if err := s.takeAddress(ctx); err != nil {
					return err
				}
				a.say(ArrivalWord{Word: ArrivalAnnounced})
			case ArrivalRestore:
				a.queues = w.Queues
				return s.restore(ctx)
			default:
				return fmt.Errorf("zap serve said %q out of turn", w.Word)
			}
		}
	}
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

// discard removes everything of a pod that did not arrive, its directory included.
func (s *Supervisor) discard(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	a := s.arrival
	if a.hold != nil {
		a.hold.Discard()
	}
	if a.cgroup != nil {
		a.kill()
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
		_ = s.net.Abandon()
		_ = s.net.Close()
	}
	if s.stream != nil {
		s.stream.close()
		_ = s.stream.log.close()
	}
	_ = RemoveDir(s.dir)
}
