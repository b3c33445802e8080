package migrate

import (
	"context"
	"encoding/json"
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

	failures chan pod.ArrivalWord // of the supervisor
	laneCame chan laneConn
	came     [laneCount]bool // guarded by the target's lock
	over     chan struct{}

	mu      sync.Mutex
	journal *Journal
	bundle  *spec.Bundle
	images  *os.File
	trees   []*os.File
	super   *supervisor
	queues  []runtime.Queue
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
	if err := in.reserve(); err != nil {
		return err
	}
	err := in.receive(ctx, cancel)
	if err == nil {
		return in.await(ctx)
	}
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
		return errors.Join(err, os.RemoveAll(in.dir))
	}
	in.journal.Entered = func(p Phase) { _ = in.conn.WriteJSON(framePhase, phaseNote{Phase: p}) }
	return in.journal.Enter(Accepted)
}

// receive is everything up to the restored tree.
func (in *incoming) receive(ctx context.Context, cancel context.CancelCauseFunc) error {
	if err := in.prepare(); err != nil {
		return err
	}
	in.register()
	stop := in.conn.KeepAlive(pingEvery)
	defer stop()
	if err := in.conn.WriteJSON(frameAccept, accept{Token: in.token, Missing: in.missing, Host: in.target.Host}); err != nil {
		return err
	}
	frames := make(chan uint8, 4)
	go in.listen(frames, cancel)
	lanes, err := in.awaitLanes(ctx)
	if err != nil {
		return err
	}
	if err := in.journal.Enter(Receiving); err != nil {
		return err
	}
	stored := make(chan error, len(lanes))
	for _, lane := range lanes {
		defer lane.Close()
		stop := context.AfterFunc(ctx, func() { lane.Stop(context.Cause(ctx)) })
		defer stop()
		go func() { stored <- in.store(ctx, lane) }()
	}
	return in.follow(ctx, frames, stored)
}

// follow waits until both lanes have brought everything, takes the address over when
// the pod is frozen, and lets the pod be restored.
func (in *incoming) follow(ctx context.Context, frames <-chan uint8, stored <-chan error) error {
	announced, open := false, laneCount
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case typ := <-frames:
			if typ != frameFrozen || announced {
				return fmt.Errorf("%s sent frame %#02x out of turn", in.conn, typ)
			}
			announced = true
			if err := in.announce(ctx); err != nil {
				return err
			}
		case err := <-stored:
			if err != nil {
				return firstOf(context.Cause(ctx), err)
			}
			if open--; open == 0 {
				return in.restore(ctx)
			}
		case w := <-in.failures:
			return fmt.Errorf("take the pod in: %s", w.Error)
		}
	}
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// register makes the token good for one connection of each lane.
func (in *incoming) register() {
	t := in.target
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.moves == nil {
		t.moves = map[string]*incoming{}
	}
	t.moves[in.token] = in
}

// awaitLanes waits for the source's bulk connections.
func (in *incoming) awaitLanes(ctx context.Context) (lanes [laneCount]*stream.Conn, err error) {
	late := time.After(10 * time.Second)
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
func (in *incoming) listen(frames chan<- uint8, cancel context.CancelCauseFunc) {
	for {
		f, err := in.conn.Read()
		switch {
		case err != nil:
			cancel(err)
			return
		case f.Type == frameAbort:
			cancel(errAborted)
			return
		}
		frames <- f.Type
		if f.Type == frameCommit {
			in.supervisor().say(pod.ArrivalCommit)
			return
		}
	}
}

// prepare makes the directories and tmpfs trees and starts the pod's
// supervisor, which prepares the network, the cgroup and CRIU beside what is
// received.
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
	if in.images, err = runtime.DetachedTmpfs([]string{"mode=700", "size=100%"}, 0); err != nil {
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
	if b.Overlay == nil {
		root := *s.Root
		root.Path = filepath.Join(dir, "rootfs")
		s.Root = &root
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
	return &b
}

// store takes the sections of the bulk connection in.
func (in *incoming) store(ctx context.Context, bulk *stream.Conn) error {
	for {
		f, err := bulk.Read()
		if err != nil {
			return err
		}
		var s section
		if f.Type != frameSection {
			return fmt.Errorf("%s sent frame %#02x where a section begins", bulk, f.Type)
		}
		if err := f.JSON(&s); err != nil {
			return err
		}
		if s.Kind == sectionEnd {
			return nil
		}
		if err := in.storeSection(ctx, bulk, &s); err != nil {
			return err
		}
		// Not earlier: an overlay keeps the mode that its upper directory has when it is made.
		if s.Kind == sectionUpper && in.supervisor() == nil {
			if err := in.supervise(ctx); err != nil {
				return err
			}
		}
	}
}

func (in *incoming) storeSection(ctx context.Context, bulk *stream.Conn, s *section) error {
	var err error
	switch s.Kind {
	case sectionLayer:
		err = receiveLayer(ctx, bulk, in.target.Runtime.Root(), s.Name, in.missing)
	case sectionUpper:
		_, err = stream.Receive(ctx, bulk, own(in.bundle), stream.Limits{})
	case sectionLog:
		err = in.storeLog(bulk, s)
	case sectionQueues:
		err = in.storeQueues(bulk, s)
	case sectionTree:
		for i, m := range in.offer.Mounts.Trees {
			if m.Key == s.Name {
				_, err = stream.Receive(ctx, bulk, descriptorPath(in.trees[i]), stream.Limits{})
				return err
			}
		}
		err = fmt.Errorf("%s sent a tmpfs called %q that it did not offer", bulk, s.Name)
	case sectionMemory:
		_, err = pages.Receive(ctx, bulk, in.images, pages.Limits{})
	case sectionImages:
		_, err = stream.Receive(ctx, bulk, descriptorPath(in.images), stream.Limits{MaxBytes: 8 << 30})
	default:
		err = fmt.Errorf("%s sent a section called %q", bulk, s.Kind)
	}
	return err
}

func descriptorPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d/.", f.Fd()) }

// storeLog appends to the pod's log.
func (in *incoming) storeLog(bulk *stream.Conn, s *section) error {
	file, err := os.OpenFile(pod.LogPath(in.dir), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("store log: %w", err)
	}
	defer file.Close()
	for left := s.Size; left > 0; {
		f, err := bulk.Read()
		if err != nil {
			return err
		}
		if f.Type != frameBytes || int64(len(f.Payload)) > left || len(f.Payload) == 0 {
			return fmt.Errorf("%s sent frame %#02x within the log", bulk, f.Type)
		}
		if _, err := file.Write(f.Payload); err != nil {
			return fmt.Errorf("store log: %w", err)
		}
		left -= int64(len(f.Payload))
	}
	return nil
}

// maxQueueBytes bounds the pod's message queues, as JSON.
const maxQueueBytes = 8 << 20

// storeQueues takes the pod's message queues in, which are made when it is restored.
func (in *incoming) storeQueues(bulk *stream.Conn, s *section) error {
	if s.Size < 0 || s.Size > maxQueueBytes {
		return fmt.Errorf("%s sent message queues of %d bytes, more than %d", bulk, s.Size, maxQueueBytes)
	}
	var data []byte
	for int64(len(data)) < s.Size {
		f, err := bulk.Read()
		if err != nil {
			return err
		}
		if f.Type != frameBytes || int64(len(data)+len(f.Payload)) > s.Size || len(f.Payload) == 0 {
			return fmt.Errorf("%s sent frame %#02x within the message queues", bulk, f.Type)
		}
		data = append(data, f.Payload...)
	}
	if err := json.Unmarshal(data, &in.queues); err != nil {
		return fmt.Errorf("read message queues: %w", err)
	}
	return nil
}

// supervise starts the pod's supervisor and, beside what follows, waits until
// it is ready.
func (in *incoming) supervise(ctx context.Context) error {
	job := &pod.ArrivalJob{
		ID: in.offer.Pod, Migration: in.offer.Migration, From: in.from, Bundle: in.bundle, Record: in.offer.Record,
		Network: in.offer.Network, Mounts: in.offer.Mounts, HoldBytes: in.target.HoldBytes, Rows: in.offer.Rows,
		Columns: in.offer.Columns, Status: in.offer.Status, Criu: in.target.Binary, CacheDir: in.target.CacheDir,
	}
	if job.Network != nil {
		local := job.Network.Clone()
		local.HostLink = pod.HostLink(in.target.Runtime.Root(), in.offer.Pod)
		job.Network = &local
	}
	job.Record.Layers = append([]pod.Layer(nil), job.Record.Layers...)
	for i := range job.Record.Layers {
		job.Record.Layers[i].Path = in.bundle.Overlay.Lower[i]
	}
	super, err := startSupervisor(in.target.Runtime.Root(), job, in.images, in.trees, in.failures)
	in.mu.Lock()
	in.super = super
	in.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err := in.super.expect(ctx, pod.ArrivalReady); err != nil {
		return err
	}
	return in.conn.WriteJSON(frameReady, struct{}{})
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
	if err != nil {
		if errors.Is(context.Cause(ctx), errAborted) {
			in.super.say(pod.ArrivalAbort)
			in.super.wait()
			in.journal.Reached(Discarded)
			return errAborted
		}
		in.super.leave()
		return err
	}
	in.super.leave()
	return in.conn.WriteJSON(frameRunning, running{HeldFrames: w.HeldFrames, Timings: w.Timings})
}

// discard removes everything of a pod that did not arrive.
func (in *incoming) discard() error {
	t := in.target
	t.mu.Lock()
	delete(t.moves, in.token)
	t.mu.Unlock()
	if super := in.supervisor(); super != nil {
		super.say(pod.ArrivalAbort)
		super.leave()
		super.wait()
	}
	for _, f := range append(in.trees, in.images) {
		if f != nil {
			f.Close()
		}
	}
	in.journal.Close()
	return os.RemoveAll(in.dir)
}
