package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/pod/pages"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/vdso"
	"github.com/zap-migrate/zap/spec"
)

// errAborted is the source's word that the pod stays there.
var errAborted = errors.New("the source has called the move off")

// laneConn is a bulk connection and what it is for.
type laneConn struct {
	lane int
	conn *stream.Conn
}

// incoming is one pod on its way in.
type incoming struct {
	target  *Target
	conn    *stream.Conn
	offer   *Offer
	from    string
	dir     string
	missing []string
	token   string
	log     *slog.Logger

	cancel   context.CancelCauseFunc
	failures chan pod.ArrivalWord // of the supervisor
	laneCame chan laneConn
	came     [laneCount]bool // guarded by the target's lock
	frozen   chan struct{}   // closed when the source has frozen the pod
	over     chan struct{}   // closed when nothing more is done about the pod

	mu      sync.Mutex
	journal *Journal
	bundle  *spec.Bundle
	images  *os.File
	trees   []*os.File
	super   *supervisor
	upper   bool // the pod's own files have come once
	ready   bool // the source may freeze
	queues  []runtime.Queue
}

func newIncoming(t *Target, conn *stream.Conn, from string, o *Offer, missing []string) *incoming {
	return &incoming{
		target: t, conn: conn, offer: o, from: from, dir: t.Runtime.Dir(o.Pod), missing: missing, token: pod.NewUID(),
		failures: make(chan pod.ArrivalWord, 1), laneCame: make(chan laneConn, laneCount), frozen: make(chan struct{}),
		over: make(chan struct{}), log: t.Log.With("pod", o.Pod, "from", from),
	}
}

// supervisor is the pod's supervisor; nil before it is started.
func (in *incoming) supervisor() *supervisor {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.super
}

func (in *incoming) phase() Phase {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.journal == nil {
		return ""
	}
	return in.journal.Phase()
}

// run takes the pod in. Until it is prepared, whatever goes wrong leaves
// nothing of it here.
func (in *incoming) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	in.cancel = cancel
	if err := in.reserve(); err != nil {
		return err
	}
	in.register()
	defer in.putAway()
	err := in.receive(ctx)
	if err == nil {
		return in.await(ctx)
	}
	cancel(err)
	return errors.Join(err, in.discard())
}

// reserve makes the pod's directory, which reserves its name, and the journal.
func (in *incoming) reserve() (err error) {
	if err := os.MkdirAll(in.target.Runtime.Root(), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(in.dir, 0o700); err != nil {
		return fmt.Errorf("reserve the name %s: %w", in.offer.Pod, err)
	}
	h := Header{
		Migration: in.offer.Migration, Pod: in.offer.Pod, Side: "target", Peer: in.from, Started: time.Now().UTC(),
		Coordinator: pod.Self(),
	}
	if in.journal, err = NewJournal(in.dir, h); err != nil {
		return errors.Join(err, pod.RemoveDir(in.dir))
	}
	in.journal.Entered = func(p Phase) { _ = in.conn.WriteJSON(framePhase, phaseNote{Phase: p}) }
	if err := in.journal.Enter(Accepted); err != nil {
		return errors.Join(err, pod.RemoveDir(in.dir), in.journal.Close())
	}
	return nil
}

// register makes the token good for one connection of each lane, and the move known.
func (in *incoming) register() {
	t := in.target
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.moves == nil {
		t.moves, t.pods = map[string]*incoming{}, map[string]*incoming{}
	}
	t.moves[in.token], t.pods[in.offer.Pod] = in, in
}

// putAway ends what register began, and closes what this process has of the pod.
func (in *incoming) putAway() {
	t := in.target
	t.mu.Lock()
	delete(t.moves, in.token)
	if t.pods[in.offer.Pod] == in {
		delete(t.pods, in.offer.Pod)
	}
	t.mu.Unlock()
	for _, f := range append(in.trees, in.images) {
		if f != nil {
			f.Close()
		}
	}
	_ = in.journal.Close()
}

// receive is everything up to the restored tree. What it starts has ended when
// it returns with an error.
func (in *incoming) receive(ctx context.Context) (err error) {
	if err := in.prepare(); err != nil {
		return err
	}
	stop := in.conn.KeepAlive(pingEvery)
	defer stop()
	code, err := vdso.Digest()
	if err != nil {
		return err
	}
	if err := in.conn.WriteJSON(frameAccept, accept{Token: in.token, Missing: in.missing, Host: in.target.Host, VDSO: code}); err != nil {
		return err
	}
	if err := in.supervise(); err != nil {
		return err
	}
	frames := make(chan uint8, 2)
	go in.listen(frames)
	lanes, err := in.awaitLanes(ctx)
	if err != nil {
		return err
	}
	var stores sync.WaitGroup
	defer func() {
		if err != nil {
			in.cancel(err)
		}
		for _, lane := range lanes {
			_ = lane.Close()
		}
		stores.Wait()
	}()
	if err := in.journal.Enter(Receiving); err != nil {
		return err
	}
	stored := make(chan error, len(lanes))
	for i, lane := range lanes {
		stop := context.AfterFunc(ctx, func() { lane.Stop(context.Cause(ctx)) })
		defer stop()
		stores.Go(func() { stored <- in.store(ctx, lane, i) })
	}
	return in.follow(ctx, frames, stored)
}

// follow waits until both lanes have brought everything, takes the address over when
// the pod is frozen, and lets the pod be restored.
func (in *incoming) follow(ctx context.Context, frames <-chan uint8, stored <-chan error) error {
	frozen, open := false, laneCount
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case typ := <-frames:
			if typ != frameFrozen || frozen || !in.isReady() {
				return fmt.Errorf("%s sent frame %#02x out of turn", in.conn, typ)
			}
			frozen = true
			close(in.frozen)
			if err := in.announce(ctx); err != nil {
				return err
			}
		case err := <-stored:
			if err != nil {
				return cmp.Or(context.Cause(ctx), err)
			}
			if open--; open == 0 {
				return in.restore(ctx)
			}
		case w := <-in.failures:
			return fmt.Errorf("take the pod in: %w", &supervisorError{w})
		}
	}
}

// isReady says whether the source was told that it may freeze.
func (in *incoming) isReady() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.ready
}

// awaitLanes waits for the source's bulk connections.
func (in *incoming) awaitLanes(ctx context.Context) (lanes [laneCount]*stream.Conn, err error) {
	late := time.After(firstWithin)
	for range lanes {
		select {
		case c := <-in.laneCame:
			lanes[c.lane] = c.conn
			continue
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-late:
			err = errors.New("the source did not connect for the files and the memory")
		}
		for _, c := range lanes {
			if c != nil {
				_ = c.Close()
			}
		}
		return lanes, err
	}
	return lanes, nil
}

// listen reads the control connection. An abort or the loss of the connection
// ends the move, unless the pod is prepared.
func (in *incoming) listen(frames chan<- uint8) {
	for {
		f, err := in.conn.Read()
		switch {
		case err != nil:
			in.cancel(err)
			return
		case f.Optional():
		case f.Type == frameAbort:
			in.cancel(errAborted)
			return
		case f.Type == frameConfirm && in.phase() == Prepared:
			if !in.supervisor().confirm() {
				return // await says so
			}
			if err := in.conn.WriteJSON(frameConfirmed, struct{}{}); err != nil {
				in.cancel(err)
				return
			}
		case f.Type == frameCommit && in.phase() == Prepared:
			in.supervisor().say(pod.ArrivalCommit)
			return
		default:
			select {
			case frames <- f.Type:
			default:
				in.cancel(fmt.Errorf("%s sent frame %#02x out of turn", in.conn, f.Type))
				return
			}
		}
	}
}

// prepare makes the directories and tmpfs trees.
func (in *incoming) prepare() (err error) {
	root := in.target.Runtime.Root()
	in.bundle = localBundle(root, in.dir, in.offer)
	dirs := []string{own(in.bundle)}
	if in.bundle.Overlay != nil {
		dirs = append(dirs, in.bundle.Overlay.Work)
	}
	for _, d := range dirs {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	if in.images, err = runtime.DetachedTmpfs(append(pages.MountOptions(), "mode=700", "size=100%"), 0); err != nil {
		return err
	}
	for _, m := range in.offer.Mounts.Trees {
		tree, err := runtime.DetachedTmpfs(m.Options, 0)
		if err != nil {
			return fmt.Errorf("tmpfs for %s: %w", m.Target, err)
		}
		in.trees = append(in.trees, tree)
	}
	return nil
}

// localBundle is the pod's bundle with the paths of this host.
func localBundle(root, dir string, o *Offer) *spec.Bundle {
	b := *o.Bundle
	b.Dir = dir
	s := *b.Spec
	linux := *s.Linux
	linux.CgroupsPath = pod.CgroupPath(root, o.Pod)
	s.Linux = &linux
	s.Hooks = nil // they are programs of the host that the pod was made on
	b.Spec = &s
	rootfs := *s.Root
	s.Root = &rootfs
	if b.Overlay == nil {
		rootfs.Path = filepath.Join(dir, "rootfs")
		return &b
	}
	b.Overlay = pod.LocalOverlay(dir)
	for _, l := range o.Record.Layers {
		path := findLayer(root, l.Digest)
		if path == "" {
			path = layerPath(root, l.Digest) // it is on its way
		}
		b.Overlay.Lower = append(b.Overlay.Lower, path)
	}
	rootfs.Path = b.Overlay.Lower[0]
	return &b
}

// announce lets the pod's address be taken over and tells the source when it is.
func (in *incoming) announce(ctx context.Context) error {
	super := in.supervisor()
	super.say(pod.ArrivalAnnounce)
	if _, err := super.expect(ctx, pod.ArrivalAnnounced); err != nil {
		return err
	}
	return in.conn.WriteJSON(frameAnnounced, struct{}{})
}

// restore lets the supervisor restore the pod and tells the source when it is prepared.
func (in *incoming) restore(ctx context.Context) error {
	if err := in.journal.Enter(Restoring); err != nil {
		return err
	}
	in.super.tell(pod.ArrivalWord{Word: pod.ArrivalRestore, Queues: in.queues})
	w, err := in.super.expect(ctx, pod.ArrivalPrepared)
	if err != nil {
		return err
	}
	in.journal.Reached(Prepared) // the supervisor has written it
	// If the source can't be told, the pod stays prepared and the source asks.
	_ = in.conn.WriteJSON(framePrepared, prepared{Timings: w.Timings})
	return nil
}

// await waits for the verdict's outcome. The connection may be lost now: the
// supervisor waits for the source to come back.
func (in *incoming) await(ctx context.Context) error {
	w, err := in.super.expect(ctx, pod.ArrivalRunning)
	aborted := err != nil && errors.Is(context.Cause(ctx), errAborted)
	if err != nil && ctx.Err() != nil && !aborted {
		in.super.leave()
		return err
	}
	if aborted {
		in.super.say(pod.ArrivalAbort)
		w, err = in.super.outcome()
	}
	in.super.leave()
	if err == nil {
		return in.conn.WriteJSON(frameRunning, running{HeldFrames: w.HeldFrames, Timings: w.Timings})
	}
	in.super.wait() // it has ended with the pod: dropped it, or died
	in.journal.Reached(Discarded)
	if aborted {
		err = errAborted
	}
	return errors.Join(err, in.drop())
}

// discard removes everything of a pod that did not arrive.
func (in *incoming) discard() error {
	if super := in.supervisor(); super != nil {
		super.say(pod.ArrivalAbort)
		super.leave()
		super.wait()
	}
	return in.drop()
}

// drop removes what the supervisor, which has ended, has not.
func (in *incoming) drop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return Drop(ctx, in.target.Runtime, in.offer.Pod)
}
