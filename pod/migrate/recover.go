package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/cgroup"
)

// fence makes sure that the stopped pod stays stopped should CRIU die: what it
// lets go runs into the freezer. It does not wait.
func fence(cg *cgroup.Cgroup) error {
	return cg.FreezeNow()
}

// kill kills the pod's processes while they are stopped, so that none of them
// ever runs again, and lets them die. If it can't, they stay stopped.
func kill(cg *cgroup.Cgroup) error {
	var err error
	for range 3 {
		if err = cg.KillNow(); err == nil {
			return cg.ThawNow()
		}
	}
	return err
}

// resume lets the pod go on after a move that failed before its commit,
// whatever state it was left in, and journals Aborted. It can be repeated.
func resume(ctx context.Context, p *pod.Pod, j *Journal) error {
	if j.Phase() == Aborted {
		return nil
	}
	if err := endCriu(ctx, j); err != nil {
		return err
	}
	if err := release(ctx, p); err != nil {
		return err
	}
	// Should it fail, as on a full disk, a recovery does all this once more.
	_ = j.Enter(Aborted)
	return nil
}

// release lets the pod's processes run with their network. It is no error if
// they have ended.
func release(ctx context.Context, p *pod.Pod) error {
	cg, err := p.Cgroup()
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pids, err := cg.Procs()
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return nil
	}
	net, cfg, err := podNetwork(ctx, p)
	if net == nil {
		return err
	}
	// err is only that its configuration can't be told, and it was not when the move began
	defer net.Close()
	// A CRIU that was killed leaves sockets in repair mode: they answer with a
	// reset. The lock is open only after the last of them is out of it.
	if err := network.Repair(pids, false); err != nil {
		return err
	}
	if err := cg.Thaw(ctx); err != nil {
		return err
	}
	if err := net.Unlock(ctx); err != nil {
		return err
	}
	if cfg == nil {
		return nil
	}
	return net.Announce(ctx) // the target may have taken the address
}

// podNetwork opens the network namespace of a pod's first process, and says
// what is known of it, nil if it has loopback only. What the container of an
// engine has is found out by looking; when that is of no kind that can move,
// the namespace comes with the error.
func podNetwork(ctx context.Context, p *pod.Pod) (*network.Network, *network.Config, error) {
	n, err := network.FromPID(p.State().Pid)
	if err != nil {
		return nil, nil, err
	}
	cfg := p.Record.Network
	if !p.Supervised() {
		if cfg, err = network.Discover(ctx, n, freshNetwork(p)); err != nil {
			return n, nil, err
		}
	}
	if cfg != nil {
		n.Use(*cfg)
	}
	return n, cfg, nil
}

// freshNetwork is what a host knows of network namespaces that nobody has changed.
func freshNetwork(p *pod.Pod) network.Fresh {
	return network.Fresh{File: filepath.Join(filepath.Dir(p.Dir()), ".network", "sysctls.json")}
}

// endCriu waits for the CRIU of a move to end, and ends it after a second.
func endCriu(ctx context.Context, j *Journal) error {
	if j.criu == nil {
		return nil
	}
	for end := time.Now().Add(time.Second); j.criu.Alive(); {
		if time.Now().After(end) {
			_ = unix.Kill(j.criu.Pid, unix.SIGKILL)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for criu (pid %d): %w", j.criu.Pid, context.Cause(ctx))
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

// forget removes everything of a pod that runs elsewhere now, and returns
// where its log was kept, if it was. It can be repeated.
func forget(ctx context.Context, p *pod.Pod, j *Journal) (kept string, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := endCriu(ctx, j); err != nil {
		return "", err
	}
	if err := p.End(ctx); err != nil {
		return "", err
	}
	if j.KeepLog {
		if kept, err = keepLog(p.Dir()); err != nil {
			return "", err
		}
	}
	if j.Phase() == Committed {
		_ = j.Enter(Done) // what matters is that the directory goes
	}
	if err := pod.RemoveDir(p.Dir()); err != nil {
		return kept, err
	}
	return kept, j.Close()
}

// keepLog moves a pod's logs out of its directory and returns where the
// current one is; empty when the pod has none.
func keepLog(dir string) (kept string, err error) {
	from, kept := pod.LogPath(dir), dir+".log"
	for _, move := range [][2]string{{pod.OldLogPath(from), pod.OldLogPath(kept)}, {from, kept}} {
		if err := os.Rename(move[0], move[1]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("keep log: %w", err)
		}
	}
	if _, err := os.Stat(kept); err != nil {
		return "", nil
	}
	return kept, nil // by this call or one before
}

// errSuperseded says that somebody else has brought the move to its end.
var errSuperseded = errors.New("the move was brought to its end meanwhile")

// deliver tells the target the verdict, again and again until it answers, ctx
// ends, or the journal is gone because a person has resolved the move.
func deliver(ctx context.Context, dialer Dialer, j *Journal, verdict string, log *slog.Logger) (*status, error) {
	wait := 50 * time.Millisecond
	for {
		if !j.current() {
			return nil, errSuperseded
		}
		st, err := deliverOnce(ctx, dialer, j, verdict)
		var refused *refusedError
		if err == nil || errors.As(err, &refused) {
			return st, err
		}
		log.Debug("tell the target", "pod", j.Pod, "verdict", verdict, "error", err.Error())
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, context.Cause(ctx))
		case <-time.After(wait):
			wait = min(2*wait, 2*time.Second)
		}
	}
}

// refusedError is an answer of the target that asking again will not change.
type refusedError struct {
	reason string
	lost   bool // the target had the pod, and it died there
}

func (e *refusedError) Error() string { return e.reason }

// deliverWithin bounds one try to tell the target a verdict, its greeting included.
const deliverWithin = 20 * time.Second

func deliverOnce(ctx context.Context, dialer Dialer, j *Journal, verdict string) (*status, error) {
	ctx, cancel := context.WithTimeout(ctx, deliverWithin)
	defer cancel()
	conn, err := dialer.Dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer conn.Watch(ctx)()
	if err := conn.WriteJSON(frameQuery, query{Migration: j.Migration, Pod: j.Pod, Verdict: verdict}); err != nil {
		return nil, err
	}
	f, err := conn.Read()
	if err != nil {
		return nil, err
	}
	var st status
	if f.Type != frameStatus {
		return nil, fmt.Errorf("%s answered with frame %#02x", conn, f.Type)
	}
	if err := f.JSON(&st); err != nil {
		return nil, err
	}
	switch {
	case st.Lost:
		return nil, &refusedError{reason: fmt.Sprintf("%s: %s", conn, printable(st.Error)), lost: true}
	case st.Error != "":
		return nil, errors.New(printable(st.Error))
	case verdict == "commit" && st.Phase != Running:
		return nil, &refusedError{reason: fmt.Sprintf("%s says that the pod is %s there", conn, printable(string(st.Phase)))}
	}
	return &st, nil
}

// Recover brings a move whose coordinator died to its end: before the commit
// the pod goes on here, after it the target is told. It does nothing when no
// move is left open, and returns ErrBusy while somebody works on the move.
func Recover(ctx context.Context, rt *runtime.Runtime, name string, dial func(*Journal) (Dialer, error), log *slog.Logger) error {
	brief, cancel := context.WithTimeout(ctx, 100*time.Millisecond) // for another recovery's step
	defer cancel()
	return recoverWithin(ctx, brief, rt, name, dial, log)
}

// TakeOver is Recover for a move whose coordinator has let go of it: it waits
// until that has ended.
func TakeOver(ctx context.Context, rt *runtime.Runtime, name string, dial func(*Journal) (Dialer, error), log *slog.Logger) error {
	return recoverWithin(ctx, ctx, rt, name, dial, log)
}

// recoverWithin waits for the journal's lock as long as locking lives.
func recoverWithin(ctx, locking context.Context, rt *runtime.Runtime, name string, dial func(*Journal) (Dialer, error), log *slog.Logger) error {
	p, err := pod.Load(rt, name)
	if errors.Is(err, runtime.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	j, err := LockJournal(locking, p.Dir())
	if errors.Is(err, ErrNoJournal) {
		return nil
	}
	if err != nil {
		return err
	}
	defer j.Close()
	if j.Side != "source" {
		if j.Phase() == Running { // it has arrived; only this was not put away
			return j.Remove()
		}
		return nil
	}
	r := &recovery{pod: p, journal: j, log: log}
	var derr error
	if r.dialer, derr = dial(j); derr != nil {
		r.dialer = lost{derr}
	}
	if j.Phase().Decided() {
		err = r.finish(ctx)
	} else {
		err = r.undo(ctx)
	}
	if errors.Is(err, errSuperseded) || errors.Is(err, ErrNoJournal) {
		return nil
	}
	return err
}

// lost is a peer that can't be dialled, for instance because the keys are gone.
type lost struct{ err error }

func (l lost) Dial(context.Context) (*stream.Conn, error) { return nil, l.err }

// recovery is one move that lost its coordinator.
type recovery struct {
	pod     *pod.Pod
	journal *Journal
	dialer  Dialer
	log     *slog.Logger
}

// finish makes sure that a committed pod runs on the target only.
func (r *recovery) finish(ctx context.Context) error {
	if err := endCriu(ctx, r.journal); err != nil {
		return err
	}
	cg, err := r.pod.Cgroup()
	if err == nil {
		// What CRIU let go of is out of repair mode and would say goodbye.
		if pids, perr := cg.Procs(); perr == nil {
			_ = network.Repair(pids, true)
		}
		err = kill(cg)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("kill the processes of pod %s, which belongs to %s: %w", r.pod.ID(), r.journal.Peer, err)
	}
	err = r.tell(ctx, "commit")
	if isLost(err) {
		return keepStopped(ctx, r.pod, r.journal, err, func(ctx context.Context) error { return r.tell(ctx, "abort") })
	}
	if err != nil {
		return err
	}
	_, err = forget(ctx, r.pod, r.journal)
	return err
}

// isLost says whether the target has answered that the pod, which was its own, died there before it ran for good.
func isLost(err error) bool {
	var refused *refusedError
	return errors.As(err, &refused) && refused.lost
}

// keepStopped makes a pod that was committed, and was lost with the target's machine, one that has stopped here: of its files this host's are the ones
// that are whole. The target is told to drop what it has, by abort. It returns a *LostError when that is written down.
func keepStopped(ctx context.Context, p *pod.Pod, j *Journal, cause error, abort func(context.Context) error) error {
	if err := stay(ctx, p, j); err != nil {
		return err
	}
	if err := abort(ctx); err != nil {
		return &LostError{Pod: p.ID(), Peer: j.Peer, Err: errors.Join(cause, err)} // a recovery tells it
	}
	if err := j.Remove(); err != nil {
		return err
	}
	return &LostError{Pod: p.ID(), Peer: j.Peer, Err: cause}
}

// stay puts a pod whose processes are dead away, as one that has stopped here.
func stay(ctx context.Context, p *pod.Pod, j *Journal) error {
	if err := endCriu(ctx, j); err != nil {
		return err
	}
	if err := p.End(ctx); err != nil {
		return err
	}
	return j.Enter(Aborted)
}

// undo lets the pod go on here and makes the target drop what it has.
func (r *recovery) undo(ctx context.Context) error {
	if r.pod.Supervised() {
		_, _ = pod.Ask(ctx, r.pod.Dir(), pod.Request{Op: pod.OpMoved})
	}
	if err := resume(ctx, r.pod, r.journal); err != nil {
		return err
	}
	if err := r.tell(ctx, "abort"); err != nil {
		return err
	}
	return r.journal.Remove()
}

// tell tells the target the verdict. Meanwhile the move is not locked: it may
// take a day, and a person may resolve it.
func (r *recovery) tell(ctx context.Context, verdict string) error {
	j := r.journal
	j.unlock()
	_, err := deliver(ctx, r.dialer, j, verdict, r.log)
	if lerr := j.lock(context.WithoutCancel(ctx)); lerr != nil {
		return lerr
	}
	switch {
	case err == nil || errors.Is(err, errSuperseded):
		return err
	case verdict == "commit":
		return &UnresolvedError{Pod: j.Pod, Peer: j.Peer, Err: err}
	}
	return fmt.Errorf("tell %s to drop pod %s: %w (`zap migrate --resolve abort %s` gives that up)", j.Peer, j.Pod, err, j.Pod)
}
