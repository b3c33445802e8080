package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/pod/pages"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/spec"
)

// Options are what `zap migrate` was asked for.
type Options struct {
	Peer      string // ADDR:PORT
	TLSDir    string // keys of this host
	KeepLog   bool   // leave a copy of the pod's log on the source
	Bandwidth int64  // bytes per second; 0: no limit
	Idle      time.Duration
	CacheDir  string // of CRIU's probe of the kernel
}

// Dialer makes authenticated connections to the peer.
type Dialer interface {
	Dial(ctx context.Context) (*stream.Conn, error)
}

// Source is the side that has the pod and coordinates the move.
type Source struct {
	Runtime *runtime.Runtime
	Pod     *pod.Pod
	Dialer  Dialer
	Options Options
	Events  func(Event)
	Log     *slog.Logger

	journal *Journal
	guard   *guard
	offer   *Offer
	control *control
	bulk    *stream.Conn // laneMemory
	side    *stream.Conn // laneFiles
	binary  *criu.Binary
	session *criu.Session
	sender  *pages.Sender
	images  *os.File
	cgroup  *cgroup.Cgroup
	net     *network.Network
	files   *files
	found   []spec.Blocker // in the pod, before it was looked at by preflight

	stopped bool // a process of the pod is stopped, and the freezer is a v1 one
	frozen  time.Time
	result  Result
	timings timings
}

// Check asks the peer whether it would take the pod and changes nothing.
func (s *Source) Check(ctx context.Context) error {
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.close()
	s.offer.Check = true
	return s.together(s.ask(ctx))
}

// together puts what in the pod itself is against the move before what the peer
// says.
func (s *Source) together(err error) error {
	if len(s.found) == 0 {
		return err
	}
	all := s.found
	var rejected *RejectedError
	if errors.As(err, &rejected) {
		all = append(all, rejected.Blockers...)
	}
	return &RejectedError{Peer: s.Options.Peer, Blockers: all}
}

// Run moves the pod. When it returns an error the pod runs on here, unless the
// error is an *UnresolvedError.
func (s *Source) Run(ctx context.Context) (*Result, error) {
	began := time.Now()
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	defer s.close()
	if len(s.found) > 0 {
		s.offer.Check = true // for the peer's reasons, too
		return nil, s.together(s.ask(ctx))
	}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	err := s.ask(ctx)
	if err == nil {
		err = s.move(ctx)
	}
	if err != nil && !s.journal.Phase().Decided() {
		return nil, s.abort(ctx, s.control.explain(err))
	}
	if err := s.complete(ctx, err); err != nil {
		return nil, err
	}
	s.result.TotalMS = milliseconds(time.Since(began))
	s.result.CRIU = s.timings.all()
	return &s.result, nil
}

// begin writes the journal and starts the guard, which takes over if this
// process dies.
func (s *Source) begin(context.Context) (err error) {
	h := Header{
		Migration: s.offer.Migration, Pod: s.Pod.ID(), Side: "source", Peer: s.Options.Peer, TLS: s.Options.TLSDir,
		KeepLog: s.Options.KeepLog, Started: time.Now().UTC(), Coordinator: pod.Self(),
	}
	if s.journal, err = NewJournal(s.Pod.Dir(), h); err != nil {
		return err
	}
	s.journal.Entered = func(p Phase) { s.emit(Event{Event: "phase", Side: "source", Phase: p}) }
	s.guard, err = startGuard(s.Runtime.Root(), s.Pod.ID())
	if err == nil {
		err = s.journal.Enter(Offered)
	}
	if err != nil { // nothing was begun
		return errors.Join(err, s.journal.Remove(), s.guard.release())
	}
	return nil
}

// ask offers the pod and connects for the bulk when it is accepted.
func (s *Source) ask(ctx context.Context) error {
	conn, err := s.Dialer.Dial(ctx)
	if err != nil {
		return err
	}
	s.control = newControl(ctx, conn, s.Options.Idle, func(p Phase) { s.emit(Event{Event: "phase", Side: "target", Phase: p}) })
	if err := conn.WriteJSON(frameOffer, s.offer); err != nil {
		return err
	}
	var a accept
	if err := s.control.expect(ctx, frameAccept, &a); err != nil {
		return err
	}
	if s.offer.Check {
		return nil
	}
	s.files.missing = a.Missing
	var limit *stream.Limiter
	if s.Options.Bandwidth > 0 {
		limit = stream.NewLimiter(s.Options.Bandwidth)
	}
	if s.bulk, err = s.openLane(ctx, laneMemory, a.Token, limit); err != nil {
		return err
	}
	s.side, err = s.openLane(ctx, laneFiles, a.Token, limit)
	return err
}

// openLane makes one bulk connection of the move.
func (s *Source) openLane(ctx context.Context, lane int, token string, limit *stream.Limiter) (*stream.Conn, error) {
	conn, err := s.Dialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	conn.SetIdle(s.Options.Idle)
	if limit != nil {
		conn.SetLimiter(limit)
	}
	s.control.onLost(func(cause error) { conn.Stop(cause) })
	conn.KeepAlive(pingEvery) // until it is closed: one lane waits while the other carries gigabytes
	return conn, conn.WriteJSON(frameAttach, attach{Token: token, Lane: lane})
}

// move is everything from the first file to the verdict.
func (s *Source) move(ctx context.Context) error {
	if err := s.journal.Enter(PreCopying); err != nil {
		return err
	}
	ready := make(chan error, 1)
	go func() { ready <- s.startSession(ctx) }()
	err := s.files.sendLive(ctx, s.bulk, s.progress)
	if serr := <-ready; err == nil {
		err = serr
	}
	if err != nil {
		return err
	}
	if err := s.nameWatches(); err != nil {
		return err
	}
	if s.offer.Network != nil {
		if err := s.net.Arm(ctx); err != nil {
			return err
		}
	}
	if err := s.control.wait(ctx, frameReady); err != nil {
		return err
	}
	return s.dump(ctx)
}

// nameWatches tells CRIU the names of what the pod watches with inotify.
func (s *Source) nameWatches() error {
	pids, err := s.cgroup.Procs()
	if err != nil {
		return err
	}
	return criu.WriteInodes(descriptorPath(s.images), runtime.WatchedInodes(s.Pod.State().Pid, pids))
}

// startSession starts CRIU beside the pod, which still runs, and makes what it needs.
func (s *Source) startSession(ctx context.Context) (err error) {
	if s.images, err = runtime.DetachedTmpfs([]string{"mode=700", "size=1g"}, 0); err != nil {
		return err
	}
	if s.sender, err = pages.NewSender(s.bulk, pages.Options{}); err != nil {
		return err
	}
	env := criu.Env{
		NetNS: s.net.File(), Cache: s.Options.CacheDir, Log: s.Log, Dumps: true, Tree: s.Pod.State().Pid, Files: []*os.File{s.sender.File()},
	}
	if s.session, err = criu.Start(ctx, s.binary, env); err != nil {
		return err
	}
	s.sender.File().Close() // CRIU has it
	start, err := pod.StartTime(s.session.Pid())
	if err != nil {
		return err
	}
	return s.journal.NoteCriu(pod.Process{Pid: s.session.Pid(), StartTime: start})
}

// dump lets CRIU dump the pod: it asks before it seizes the pod, which is when
// the pod is frozen, and when all is written, which is when the hosts decide.
func (s *Source) dump(ctx context.Context) error {
	if err := s.lookForStopped(); err != nil {
		return err
	}
	freezer := s.cgroup.FreezerPath()
	if s.stopped {
		freezer = ""
	}
	options := runtime.DumpOptions(&runtime.DumpRequest{
		Container: s.Pod.Container, Mounts: &s.offer.Mounts, Images: s.images, Pages: s.session.FD(0), Freezer: freezer,
		Streams: s.offer.Record.Streams,
	})
	var cause error
	memory := make(chan error, 1)
	callbacks := criu.Callbacks{
		PreDump: func() error {
			if cause = s.freeze(ctx); cause != nil {
				return cause
			}
			go func() { memory <- s.sendMemory(ctx) }()
			return nil
		},
		QueryExternal: func() ([]string, error) {
			if s.stopped {
				s.files.startDelta(ctx, s.side) // only now does nothing change any more
			}
			return s.externalFiles()
		},
		PostDump: func() error {
			s.timings.mark("dump", s.frozen)
			cause = s.park(ctx, memory)
			return cause
		},
	}
	_, err := s.session.Dump(ctx, options, callbacks)
	if s.journal.Phase().Decided() {
		return nil // what CRIU says of the tree that was killed under it does not matter
	}
	return firstCause(ctx, cause, err, memory, s.control)
}

// externalFiles tells CRIU, with the pod stopped, which open files it shall not look into.
func (s *Source) externalFiles() ([]string, error) {
	pids, err := s.cgroup.Procs()
	if err != nil {
		return nil, err
	}
	if s.files.reopened, err = runtime.QueueFiles(s.Pod.State().Pid, pids, &s.offer.Mounts); err != nil {
		return nil, err
	}
	var keys []string
	for _, f := range s.files.reopened {
		keys = append(keys, f.Key)
	}
	return keys, nil
}

// freeze stops the pod, cuts it from the network and tells the target that the
// address is its own now. The clients' pause begins here.
func (s *Source) freeze(ctx context.Context) error {
	if err := s.journal.Enter(Frozen); err != nil {
		return err
	}
	s.frozen = time.Now()
	if err := s.cgroup.Freeze(ctx); err != nil {
		return err
	}
	s.timings.mark("freeze", s.frozen)
	// Until the target holds what comes for the pod, the pod still hears here,
	// for its sockets are not dumped yet; but it must not answer any more.
	if s.offer.Network != nil {
		if err := s.net.Mute(ctx); err != nil {
			return err
		}
	}
	if err := s.control.conn.WriteJSON(frameFrozen, struct{}{}); err != nil {
		return err
	}
	if !s.stopped {
		s.files.startDelta(ctx, s.side)
	}
	if err := s.control.wait(ctx, frameAnnounced); err != nil {
		return err
	}
	s.timings.mark("announced", s.frozen)
	if s.offer.Network != nil {
		// For ever, as far as the namespace of an engine goes, which stays when the pod has left.
		if err := s.net.Lock(ctx); err != nil {
			return err
		}
	}
	if s.stopped {
		return s.cgroup.ThawNow() // CRIU stops the pod itself
	}
	return nil
}

// lookForStopped notes whether a process of the pod is stopped, as a job after ^Z.
// In a v1 freezer such a process can't be traced, so that CRIU would wait for ever:
// it has to stop the pod without the freezer then. The pod may run for a moment
// once more; nobody hears it.
func (s *Source) lookForStopped() error {
	pids, err := s.cgroup.Procs()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		state, err := pod.ProcessState(pid)
		if err == nil && state == 'T' {
			_, err := os.Stat(filepath.Join(s.cgroup.FreezerPath(), "freezer.state"))
			s.stopped = err == nil
		}
	}
	return nil
}

// sendMemory runs the page channel until CRIU has sent all pages.
func (s *Source) sendMemory(ctx context.Context) error {
	if err := s.bulk.WriteJSON(frameSection, section{Kind: sectionMemory}); err != nil {
		return err
	}
	defer s.progress("memory", s.offer.Manifest.Memory)()
	stats, err := s.sender.Run(ctx)
	s.result.MemoryBytes = stats.Pages * int64(os.Getpagesize())
	s.timings.mark("memory", s.frozen)
	return err
}

// park is called with the whole pod stopped and all images written. Its nil is
// the verdict that the pod is the target's.
func (s *Source) park(ctx context.Context, memory <-chan error) error {
	if err := <-memory; err != nil {
		return fmt.Errorf("send memory: %w", err)
	}
	if err := s.files.sendImages(ctx, s.bulk, s.images); err != nil {
		return err
	}
	s.timings.mark("sent", s.frozen)
	if err := s.journal.Enter(Sent); err != nil {
		return err
	}
	// Should CRIU die from here on, the pod must not run: the freezer holds it.
	if err := fence(s.cgroup); err != nil {
		return err
	}
	if err := s.tellSupervisor(ctx, s.Options.Peer); err != nil {
		return err
	}
	var p prepared
	if err := s.control.expect(ctx, framePrepared, &p); err != nil {
		return err
	}
	s.timings.mark("prepared", s.frozen)
	s.timings.add("target_", p.Timings)
	return s.commit()
}

// commit makes the pod the target's: durable first, then the processes here
// are killed, then the target is told.
func (s *Source) commit() error {
	if err := s.journal.Enter(Committed); err != nil {
		return err
	}
	if err := kill(s.cgroup); err != nil {
		s.Log.Error("kill the pod's processes", "pod", s.Pod.ID(), "error", err.Error())
	}
	if err := s.control.conn.WriteJSON(frameCommit, struct{}{}); err != nil {
		s.Log.Warn("tell the target to go on", "error", err.Error())
	}
	s.timings.mark("commit", s.frozen)
	return nil
}

// tellSupervisor announces to the pod's supervisor that the pod will be gone
// (peer) or stays (empty).
func (s *Source) tellSupervisor(ctx context.Context, peer string) error {
	if !s.Pod.Supervised() {
		return nil
	}
	_, err := pod.Ask(ctx, s.Pod.Dir(), pod.Request{Op: pod.OpMoved, Peer: peer})
	return err
}

// verdictWithin is how long `zap migrate` itself tries to tell the target that
// the pod is its own, in times of Options.Idle (a minute by default); then the
// guard goes on.
const verdictWithin = 12

// complete makes sure that the target runs the pod and removes it here. The
// decision is made: neither a timeout nor an interrupt ends it.
func (s *Source) complete(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), verdictWithin*s.Options.Idle)
	defer cancel()
	var r running
	if err == nil {
		err = s.control.expect(ctx, frameRunning, &r)
	}
	if err != nil {
		s.emit(Event{Event: "retry", Detail: err.Error()})
		st, derr := deliver(ctx, s.Dialer, s.journal, "commit", s.Log)
		if derr != nil {
			return &UnresolvedError{Pod: s.Pod.ID(), Peer: s.Options.Peer, Err: derr}
		}
		r.HeldFrames = st.HeldFrames
	}
	// The target's word comes when it has written down what runs for a while already.
	s.result.PauseMS = milliseconds(time.Since(s.frozen) - time.Duration(r.Timings["settle"])*time.Microsecond)
	s.result.HeldFrames = r.HeldFrames
	s.timings.add("target_", r.Timings)
	s.timings.mark("running", s.frozen)
	s.result.Bytes, s.result.FileBytes = s.bytes()
	s.result.Result = "migrated"
	_ = s.session.Close()
	return s.leave(ctx)
}

// leave removes everything of the pod from this host.
func (s *Source) leave(ctx context.Context) error {
	kept, err := forget(ctx, s.Pod, s.journal)
	s.result.Log = kept
	if err != nil {
		return fmt.Errorf("the pod runs on %s; remove what is left of it here: %w", s.Options.Peer, err)
	}
	return s.guard.release()
}

// abort lets the pod go on here and tells the target.
func (s *Source) abort(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if s.session != nil {
		_ = s.session.Close()
	}
	_ = s.tellSupervisor(ctx, "")
	if err := resume(ctx, s.Pod, s.journal); err != nil {
		return fmt.Errorf("%w; let the pod go on: %w", cause, err)
	}
	// A target that has not been reached, or has not accepted, has nothing of the pod.
	if s.control != nil && s.control.accepted() {
		if s.tellAbort(ctx) != nil {
			// by the guard, which takes over when this process ends
			return &AbortedError{fmt.Errorf("%w (the target will be told when it answers)", cause)}
		}
	}
	err := errors.Join(cause, s.journal.Remove(), s.guard.release())
	if s.control == nil {
		return err
	}
	return &AbortedError{err}
}

// AbortedError says that a move failed and the pod goes on where it was.
type AbortedError struct{ Err error }

func (e *AbortedError) Error() string { return e.Err.Error() }

func (e *AbortedError) Unwrap() error { return e.Err }

// tellAbort tells the target to drop the pod, on the connection there is or on
// a new one.
func (s *Source) tellAbort(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if s.control != nil {
		if s.control.conn.WriteJSON(frameAbort, struct{}{}) == nil && s.control.wait(ctx, frameDiscarded) == nil {
			return nil
		}
	}
	_, err := deliver(ctx, s.Dialer, s.journal, "abort", s.Log)
	return err
}

func (s *Source) close() {
	if s.control != nil {
		s.control.close()
	}
	for _, conn := range []*stream.Conn{s.bulk, s.side} {
		if conn != nil {
			_ = conn.Close()
		}
	}
	if s.session != nil {
		_ = s.session.Close()
	}
	if s.images != nil {
		s.images.Close()
	}
	if s.net != nil {
		_ = s.net.Close()
	}
	if s.guard != nil {
		s.guard.close()
	}
	if s.journal != nil {
		_ = s.journal.Close()
	}
}

func (s *Source) emit(e Event) {
	e.Time = time.Now().UTC()
	s.Events(e)
}

// progressEvery is how often a long transfer is reported.
const progressEvery = 200 * time.Millisecond

// progress reports what the bulk connection sends until the returned function
// is called. total is in bytes, 0 where it is not known.
func (s *Source) progress(what string, total int64) (stop func()) {
	done := make(chan struct{})
	start := s.bulk.Meter().Counts().RawSent
	go func() {
		ticker := time.NewTicker(progressEvery)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				m := s.bulk.Meter()
				sent := m.Counts().RawSent - start
				s.emit(Event{Event: "progress", What: what, Bytes: sent, Total: total, Rate: int64(m.Rate())})
			}
		}
	}()
	return func() { close(done) }
}

// bytes counts what went over the wire, and how much of it was no memory.
func (s *Source) bytes() (all, ofFiles int64) {
	for _, conn := range []*stream.Conn{s.control.conn, s.bulk, s.side} {
		all += conn.Meter().Counts().WireSent
	}
	return all, s.files.sent.Load()
}
