package criu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

const (
	startLimit  = 20 * time.Second       // for a CRIU to come up
	closeLimit  = 2 * time.Second        // for a CRIU whose socket was closed to end by itself
	treeLimit   = 300 * time.Millisecond // the same, when the tree that it restores was killed
	commitLimit = time.Minute            // for CRIU to finish what was answered with a final yes
)

// firstFD is the descriptor of Env.Files[0] in CRIU; 3 is the socket.
const firstFD = 4

// Session is a running CRIU that takes one Dump or one Restore. It is not for
// use by several goroutines at once, except that Close may come at any time.
type Session struct {
	binary *Binary
	proc   *process
	wire   *wire
	log    *slog.Logger

	exited chan struct{} // closed when state is set
	state  *os.ProcessState

	used    bool        // a Dump or Restore was sent
	root    *os.Process // the restored tree's first, once CRIU has told it
	refused error       // the first callback's no
	final   bool        // a yes was sent after which there is no way back
	lazy    bool        // it waits for others to ask for memory

	patience time.Duration // for how long it may do nothing when it is its turn

	closing sync.Once
	killed  bool // by close, valid after it
}

// Start starts CRIU in e and asks it for its version, so that what comes next
// finds it ready. When ctx ends before that, CRIU is ended too; afterwards ctx
// is no longer looked at. Close must be called in the end. Descriptors that this
// process inherited without close-on-exec get it, so that CRIU does not hold them.
func Start(ctx context.Context, b *Binary, e Env) (*Session, error) {
	kdat, err := kernelFacts(ctx, b, e)
	if err != nil {
		return nil, &Error{Verb: "start " + b.Path, Cause: err.Error(), Err: err}
	}
	return start(ctx, b, e, kdat)
}

// kernelFacts returns what CRIU b knows about this kernel from e's cache. The
// first time in a boot a CRIU of its own is asked, in the caller's network
// namespace: a pod's may lack the loopback that some probes use.
func kernelFacts(ctx context.Context, b *Binary, e Env) ([]byte, error) {
	if e.Cache == "" || e.Bare {
		return nil, nil
	}
	cache, err := newKdatCache(e.Cache, b)
	if err != nil {
		return nil, err
	}
	if kdat := cache.load(); kdat != nil {
		return kdat, nil
	}
	s, err := start(ctx, b, Env{Log: e.Log}, nil)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if _, err := s.Features(ctx); err != nil {
		return nil, err
	}
	kdat := kdatIn(s.proc.run)
	if kdat == nil {
		return nil, nil // this CRIU keeps none; each session probes anew
	}
	return kdat, cache.save(kdat)
}

func start(ctx context.Context, b *Binary, e Env, kdat []byte) (*Session, error) {
	verb := "start " + b.Path
	w, theirs, err := newWire()
	if err != nil {
		return nil, &Error{Verb: verb, Cause: err.Error(), Err: err}
	}
	// No configuration file of the host changes what zap asks for.
	args := []string{"--no-default-config", "swrk", "3"}
	proc, err := e.spawn(b.Path, args, append([]*os.File{theirs}, e.Files...), kdat)
	theirs.Close()
	if err != nil {
		w.close()
		return nil, &Error{Verb: verb, Cause: err.Error(), Err: err}
	}
	s := &Session{binary: b, proc: proc, wire: w, log: e.logger(), exited: make(chan struct{}), patience: stallLimit}
	go func() {
		s.state, _ = proc.Wait()
		close(s.exited)
	}()
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("no answer within %v", startLimit))
	defer cancel()
	if err := s.version(ctx); err != nil {
		err = s.failure(verb, nil, err)
		s.Close()
		return nil, err
	}
	return s, nil
}

// version asks CRIU for its version and keeps the session open.
func (s *Session) version(ctx context.Context) error {
	resp, err := s.ask(ctx, &rpc.CriuReq{Type: rpc.CriuReqType_VERSION.Enum(), KeepOpen: proto.Bool(true)})
	if err != nil {
		return err
	}
	v := resp.GetVersion()
	if got := int(v.GetMajorNumber())*10000 + int(v.GetMinorNumber())*100 + int(v.GetSublevel()); got != s.binary.Version {
		return fmt.Errorf("%s answers as version %s, not %s: was it replaced?", s.binary.Path, formatVersion(got), s.binary.VersionString())
	}
	return nil
}

// Features are the kernel features that CRIU tells over its socket.
type Features struct {
	MemTrack   bool // soft-dirty tracking of memory, for pre-dumps
	LazyPages  bool // userfaultfd, for lazy restores
	PidfdStore bool // pidfds, against reuse of pids between pre-dumps
}

// Features asks what CRIU can do on this kernel. The session stays usable.
func (s *Session) Features(ctx context.Context) (Features, error) {
	yes := proto.Bool(true)
	resp, err := s.ask(ctx, &rpc.CriuReq{
		Type: rpc.CriuReqType_FEATURE_CHECK.Enum(), KeepOpen: yes,
		Features: &rpc.CriuFeatures{MemTrack: yes, LazyPages: yes, PidfdStore: yes},
	})
	if err != nil {
		return Features{}, s.failure("check features", nil, err)
	}
	f := resp.GetFeatures()
	return Features{f.GetMemTrack(), f.GetLazyPages(), f.GetPidfdStore()}, nil
}

// ask sends a request that has no callbacks.
func (s *Session) ask(ctx context.Context, req *rpc.CriuReq) (*rpc.CriuResp, error) {
	if err := s.wire.send(req); err != nil {
		return nil, err
	}
	resp, files, err := s.receive(ctx)
	if err != nil {
		return nil, err
	}
	closeAll(files)
	switch {
	case !resp.GetSuccess():
		return nil, fmt.Errorf("refused: %s", resp.GetCrErrmsg())
	case resp.GetType() != req.GetType():
		return nil, fmt.Errorf("answer %v to a request %v", resp.GetType(), req.GetType())
	}
	return resp, nil
}

// receive waits for CRIU's next message. io.EOF means that there is none: CRIU
// has ended, although a process that it was restoring, and that now waits for it,
// may hold the other end of the socket still. A CRIU that does nothing is not
// waited for.
func (s *Session) receive(ctx context.Context) (*rpc.CriuResp, []*os.File, error) {
	waiting, ended := context.WithCancelCause(ctx)
	defer ended(nil)
	over := make(chan struct{})
	defer close(over)
	watch := s.watch()
	defer watch.stop()
	go func() {
		for {
			select {
			case <-s.exited:
				ended(io.EOF)
				return
			case <-watch.due():
				if err := watch.look(); err != nil {
					ended(err)
					return
				}
			case <-over:
				return
			}
		}
	}()
	resp, files, err := s.wire.receive(waiting)
	if errors.Is(err, io.EOF) && waiting.Err() != nil {
		return s.wire.pending() // what it said before
	}
	return resp, files, err
}

// Pid returns CRIU's process id.
func (s *Session) Pid() int { return s.proc.Pid }

// Work returns the directory Env.Work as the session sees it, until Close; nil
// when there is none.
func (s *Session) Work() *os.File { return s.proc.work }

// FD returns the descriptor in CRIU of Env.Files[i], for options such as
// inherit_fd and ps.fd.
func (s *Session) FD(i int) int32 { return int32(firstFD + i) }

// Close ends CRIU and waits for it: it closes the socket, which makes an idle
// CRIU exit and lets a dump fail at its next callback, and after two seconds
// sends SIGKILL. It returns an error only when that was needed. What a
// successful Restore made lives on.
func (s *Session) Close() error {
	if s.end(closeLimit) {
		return &Error{Verb: "close session", Cause: fmt.Sprintf("no exit within %v", closeLimit), Killed: true}
	}
	return nil
}

// end is Close with a time to wait; it reports whether CRIU had to be killed.
func (s *Session) end(grace time.Duration) bool {
	s.closing.Do(func() {
		s.wire.close()
		limit := time.NewTimer(grace)
		defer limit.Stop()
		select {
		case <-s.exited:
		case <-limit.C:
			s.killed = true
			_ = s.proc.Kill()
			<-s.exited
		}
		if out := s.proc.text(); out != "" {
			s.log.Debug("criu", "pid", s.proc.Pid, "output", out)
		}
		s.proc.release()
	})
	return s.killed
}

// failure makes an Error of err, which ended what verb says, with CRIU's own
// words from the log that opts name.
func (s *Session) failure(verb string, opts *rpc.CriuOpts, err error) *Error {
	var already *Error
	if errors.As(err, &already) {
		return already
	}
	e := &Error{Verb: verb, Cause: err.Error(), Err: err, Killed: s.killed}
	var no *refusal
	if errors.As(err, &no) {
		e.Err = no.err
		e.Log = logPath(opts)
		return e
	}
	if errors.Is(err, io.EOF) {
		e.Cause, e.Err = "CRIU ended without an answer", nil
		select {
		case <-s.exited:
			e.Cause += ": " + s.state.String()
		case <-time.After(time.Second):
		}
	}
	d := readLog(opts)
	if d.Cause == "" {
		d = Diagnose(strings.NewReader(s.proc.text()))
	}
	e.Log = logPath(opts)
	switch {
	case d.Cause == "":
	case errors.Is(err, io.EOF) || errors.Is(err, errUnsuccessful):
		e.Cause, e.Hint = d.Cause, d.Hint
	default:
		e.Cause += "; CRIU says: " + d.Cause
	}
	return e
}
