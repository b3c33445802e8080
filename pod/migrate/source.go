package migrate

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync/atomic"
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

	Mode        Mode          // empty: ModeAuto
	MaxRounds   int           // of pre-copy; 0: DefaultMaxRounds
	MaxDowntime time.Duration // longer pauses are not begun; 0: any
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
	// Unhurry ends a pod.Hurry that the caller has begun for the move, which goes on hurrying where it is worth it. It is nil when the process moves several
	// pods at once: what it sends of one would be in the way of another that stands still.
	Unhurry func()

	journal *Journal
	guard   *guard
	line    *line // to the peer, for control
	lanes   [laneCount]*line
	offer   *Offer
	control *control
	bulk    *stream.Conn // laneMemory
	side    *stream.Conn // laneFiles
	binary  *criu.Binary
	session *criu.Session
	sender  *pages.Sender
	images  *os.File
	started chan error // the outcome of startSession; nil before it is called
	cgroup  *cgroup.Cgroup
	net     *network.Network
	files   *files
	found   []spec.Blocker // in the pod, before it was looked at by preflight

	checkOnly bool   // nothing is sent but the offer
	unhurry   func() // nil while this process does not hurry
	stopped   bool   // a process of the pod is stopped, and the freezer is a v1 one
	sameVDSO  bool   // the target's kernel has the same as this one, and the pod no other
	tracked   bool   // the kernel has tracked what the pod writes since the last round
	frozen    time.Time
	result    Result
	timings   timings
	over      atomic.Bool // nothing is to be reported any more
}

// Check asks the peer whether it would take the pod and changes nothing.
func (s *Source) Check(ctx context.Context) error {
	defer s.close()
	s.checkOnly = true
	if err := s.prepare(ctx); err != nil {
		return err
	}
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
	defer s.close()
	s.hurry()
	defer s.calm()
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
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

// dial begins to connect with the peer, which has nothing else to do before the offer comes. Connections that have waited for too long are
// made again when they are needed.
func (s *Source) dial(ctx context.Context) {
	s.line = dialAhead(ctx, s.Dialer)
	if s.checkOnly {
		return
	}
	for i := range s.lanes {
		s.lanes[i] = dialAhead(ctx, s.Dialer)
	}
}

// ask offers the pod and attaches the bulk connections when it is accepted. While
// the peer looks at the offer, CRIU is started.
func (s *Source) ask(ctx context.Context) error {
	conn, err := s.line.take(ctx)
	if err != nil {
		return err
	}
	s.control = newControl(ctx, conn, s.Options.Idle, func(p Phase) { s.emit(Event{Event: "phase", Side: "target", Phase: p}) })
	if err := conn.WriteJSON(frameOffer, s.offer); err != nil {
		return err
	}
	if s.offer.Check {
		return s.control.wait(ctx, frameAccept)
	}
	s.started = make(chan error, 1)
	go func() { s.started <- s.startSession(ctx) }()
	ours, err := s.knownVDSO() // while the peer works, too
	if err != nil {
		return err
	}
	var a accept
	if err := s.control.expect(ctx, frameAccept, &a); err != nil {
		return err
	}
	s.files.missing, s.sameVDSO = a.Missing, ours != "" && ours == a.VDSO
	var limit *stream.Limiter
	if s.Options.Bandwidth > 0 {
		limit = stream.NewLimiter(s.Options.Bandwidth)
	}
	if s.bulk, err = s.attachLane(ctx, laneMemory, s.lanes[laneMemory], a.Token, limit); err != nil {
		return err
	}
	s.side, err = s.attachLane(ctx, laneFiles, s.lanes[laneFiles], a.Token, limit)
	return err
}

// attachLane makes l one of the move's bulk connections. A busy host may have been too slow for it: the peer has said on another that it is there.
func (s *Source) attachLane(ctx context.Context, lane int, l *line, token string, limit *stream.Limiter) (*stream.Conn, error) {
	conn, err := l.take(ctx)
	if err != nil {
		s.Log.Debug("connect once more", "peer", s.Options.Peer, "error", err.Error())
		conn, err = s.Dialer.Dial(ctx)
	}
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
	if len(s.files.missing) > 0 || s.offer.Manifest.Disk > hurriedFiles {
		s.calm()
	}
	err := s.files.sendLive(ctx, s.bulk, s.progress)
	if serr := s.awaitSession(); err == nil {
		err = serr
	}
	if err != nil {
		return err
	}
	if err := s.preCopy(ctx); err != nil {
		return err
	}
	s.hurry()
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

// hurriedFiles is up to how many bytes of files are sent in a hurry while the pod runs.
const hurriedFiles = 16 << 20

// hurry lets the move go before other work of this host: all of it but sending much while the pod runs.
func (s *Source) hurry() {
	if s.Unhurry == nil || s.unhurry != nil {
		return
	}
	s.unhurry = pod.Hurry()
	s.Unhurry() // once is enough
}

func (s *Source) calm() {
	if s.unhurry != nil {
		s.unhurry()
		s.unhurry = nil
	}
}

// nameWatches tells CRIU the names of what the pod watches with inotify.
func (s *Source) nameWatches() error {
	pids, err := s.cgroup.Procs()
	if err != nil {
		return err
	}
	return criu.WriteInodes(descriptorPath(s.images), runtime.WatchedInodes(s.Pod.State().Pid, pids))
}

// awaitSession waits until CRIU is there, or is not, if it was ever wanted.
func (s *Source) awaitSession() error {
	if s.started == nil {
		return nil
	}
	err := <-s.started
	s.started <- err // for whoever asks again
	return err
}

// startSession starts CRIU beside the pod, which still runs, and makes what it needs.
func (s *Source) startSession(ctx context.Context) (err error) {
	if s.images, err = runtime.DetachedTmpfs([]string{"mode=700", "size=1g"}, 0); err != nil {
		return err
	}
	if s.sender, err = pages.NewSender(); err != nil {
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

func (s *Source) emit(e Event) {
	if s.over.Load() {
		return // the result is the last line
	}
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
