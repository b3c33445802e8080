package criu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// errUnsuccessful stands for an answer in which CRIU only says that it did not
// succeed; its log has the reason.
var errUnsuccessful = errors.New("CRIU did not succeed")

// Dump dumps the tree that opts name. It returns after CRIU's own clean-up, so
// either the tree is gone, or an *Error says why it runs on. A tree whose
// cgroup was frozen before is frozen again when it runs on.
//
// When ctx ends, the dump is broken off, which leaves the tree running;
// Error.Killed tells whether CRIU had to be killed for that. After a yes to
// PostDump ctx is not looked at any more.
func (s *Session) Dump(ctx context.Context, opts *rpc.CriuOpts, cb Callbacks) (*rpc.CriuDumpResp, error) {
	verb := fmt.Sprintf("dump process tree %d", opts.GetPid())
	resp, err := s.request(ctx, rpc.CriuReqType_DUMP, opts, &cb)
	if err != nil {
		return nil, s.requestFailure(verb, opts, resp, err)
	}
	return resp.GetDump(), nil
}

// PreDump copies the memory of the tree that opts name while it runs, but for
// a moment, and has the kernel note what changes from then on: a dump or another
// pre-dump with these images as its parent takes only that. CRIU aborts where the
// kernel can't note it; see [Features].
func (s *Session) PreDump(ctx context.Context, opts *rpc.CriuOpts, cb Callbacks) error {
	verb := fmt.Sprintf("pre-dump process tree %d", opts.GetPid())
	if resp, err := s.request(ctx, rpc.CriuReqType_SINGLE_PRE_DUMP, opts, &cb); err != nil {
		return s.requestFailure(verb, opts, resp, err)
	}
	return nil
}

// Restore restores the tree that opts name and returns its first process. With
// rst_sibling that is a child of this process, to be waited for.
//
// When ctx ends, or a callback up to PreResume says no, nothing of the tree is
// left running. After a yes to PreResume there is no way back: ctx is not
// looked at any more, and an error that still comes, because CRIU died, comes
// with the process id of the tree, which runs.
func (s *Session) Restore(ctx context.Context, opts *rpc.CriuOpts, cb Callbacks) (pid int, err error) {
	resp, err := s.request(ctx, rpc.CriuReqType_RESTORE, opts, &cb)
	switch {
	case err == nil:
		return int(resp.GetRestore().GetPid()), nil
	case s.final && s.root != nil:
		return s.root.Pid, s.requestFailure(verbRestore, opts, resp, err)
	}
	s.killRoot()
	failure := s.requestFailure(verbRestore, opts, resp, err)
	if opts.GetRstSibling() {
		s.reapRoot()
	}
	return 0, failure
}

// request sends a request and answers CRIU's callbacks until its final answer.
func (s *Session) request(ctx context.Context, t rpc.CriuReqType, opts *rpc.CriuOpts, cb *Callbacks) (*rpc.CriuResp, error) {
	if s.used {
		return nil, errors.New("the session was used already: CRIU takes one dump or restore")
	}
	s.used, s.lazy = true, opts.GetLazyPages()
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	// Without callbacks CRIU would not notice that nobody is there any more,
	// and kill the tree that it dumps.
	opts.NotifyScripts = proto.Bool(true)
	if s.log.Enabled(ctx, slog.LevelDebug) && opts.GetLogLevel() < talkativeLevel {
		opts.LogLevel = proto.Int32(talkativeLevel)
	}
	if err := s.wire.send(&rpc.CriuReq{Type: &t, Opts: opts}); err != nil {
		return nil, err
	}
	for limited := false; ; {
		resp, files, err := s.receive(ctx)
		if err != nil {
			return nil, s.abandon(err)
		}
		if resp.GetType() != rpc.CriuReqType_NOTIFY {
			closeAll(files)
			return resp, s.verdict(t, resp)
		}
		if t == rpc.CriuReqType_RESTORE {
			s.noteRoot(int(resp.GetNotify().GetPid()))
		}
		if err := s.notified(resp.GetNotify(), files, cb); err != nil {
			return nil, s.abandon(err)
		}
		if s.final && !limited && !s.lazy { // lazy pages go when somebody asks for them
			limited = true
			late, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), commitLimit,
				fmt.Errorf("CRIU did not finish within %v", commitLimit))
			defer cancel()
			ctx = late
		}
	}
}

// notified runs one callback and sends the answer.
func (s *Session) notified(n *rpc.CriuNotify, files []*os.File, cb *Callbacks) error {
	name := n.GetScript()
	opts, no := cb.answer(n, files)
	if no != nil && s.refused == nil && name != networkUnlock && name != postResume && name != statusReady {
		s.refused = no
	}
	if no != nil && name == preResume {
		// CRIU would only log the no. It can't be asked to clean up either: it
		// traces the tree, and waits for its first process, which waits for the
		// others, which wait for their tracer.
		s.killRoot()
		_ = s.proc.Kill()
		return no
	}
	if no == nil && (name == postDump || name == preResume) {
		s.final = true
	}
	return s.wire.send(&rpc.CriuReq{
		Type: rpc.CriuReqType_NOTIFY.Enum(), NotifySuccess: proto.Bool(no == nil), Opts: opts,
	})
}

// verdict turns CRIU's final answer into an error.
func (s *Session) verdict(t rpc.CriuReqType, resp *rpc.CriuResp) error {
	switch {
	case s.refused != nil:
		return s.refused
	case resp.GetType() != t:
		return fmt.Errorf("answer %v to a request %v: %s", resp.GetType(), t, resp.GetCrErrmsg())
	case !resp.GetSuccess():
		return errUnsuccessful
	default:
		return nil
	}
}

// abandon breaks off the request for the reason err. What CRIU was restoring
// is killed first: it would run on when CRIU ends after the last callback.
func (s *Session) abandon(err error) error {
	grace := closeLimit
	if s.root != nil && !s.final {
		s.killRoot()
		grace = treeLimit // CRIU may now wait for ever, as in notified
	}
	s.end(grace)
	if s.refused != nil {
		return s.refused
	}
	return err
}

func (s *Session) requestFailure(verb string, opts *rpc.CriuOpts, resp *rpc.CriuResp, err error) *Error {
	e := s.failure(verb, opts, err)
	e.refused = s.refused != nil
	if resp.GetCrErrno() > 0 {
		e.Errno = syscall.Errno(resp.GetCrErrno())
	}
	if e.Cause == errUnsuccessful.Error() && resp.GetCrErrmsg() != "" {
		d := Diagnose(strings.NewReader(resp.GetCrErrmsg()))
		e.Cause, e.Hint = d.Cause, d.Hint
	}
	return e
}

// noteRoot keeps a handle on the restored tree's first process, so that a
// process id that was used again is not taken for it.
func (s *Session) noteRoot(pid int) {
	if pid > 0 && s.root == nil {
		s.root, _ = os.FindProcess(pid)
	}
}

// killRoot kills the restored tree. CRIU holds it stopped, so nothing is born
// meanwhile, and every process has the signal pending before CRIU lets go of it.
func (s *Session) killRoot() {
	if s.root == nil || s.root.Signal(syscall.Signal(0)) != nil {
		return
	}
	for _, pid := range descendants(s.root.Pid) {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// reapRoot waits for the killed tree's first process, unless somebody else did.
func (s *Session) reapRoot() {
	if s.root == nil {
		return
	}
	for end := time.Now().Add(closeLimit); time.Now().Before(end); time.Sleep(time.Millisecond) {
		pid, err := unix.Wait4(s.root.Pid, nil, unix.WNOHANG, nil)
		if pid != 0 && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// descendants returns root and all processes below it, root first.
func descendants(root int) []int {
	tree := []int{root}
	for i := 0; i < len(tree); i++ {
		dir := "/proc/" + strconv.Itoa(tree[i]) + "/task"
		threads, _ := os.ReadDir(dir)
		for _, t := range threads {
			children, _ := os.ReadFile(dir + "/" + t.Name() + "/children")
			for _, field := range strings.Fields(string(children)) {
				if pid, err := strconv.Atoi(field); err == nil {
					tree = append(tree, pid)
				}
			}
		}
	}
	return tree
}
