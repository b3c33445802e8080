package migrate

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/spec"
)

// files sends what a pod has on disk and in tmpfs: all of it while the pod
// runs, and what changed since once it is frozen.
type files struct {
	pod     *pod.Pod
	bundle  *spec.Bundle
	layers  []pod.Layer
	mounts  runtime.MountPlan
	pid     int
	missing []string // digests of the lower layers that the target lacks

	reopened []criu.Reopened // open message queues

	before *stream.Index // the pod's own layer as it was sent
	log    *os.File      // the log that was sent last, and how far
	logged int64
	sent   atomic.Int64 // bytes of file content that were sent
	delta  chan error
}

// own is the directory that holds the pod's own files: the overlay's upper
// layer, or the whole root file system of a container without one.
func own(b *spec.Bundle) string {
	if b.Overlay != nil {
		return b.Overlay.Upper
	}
	return b.RootPath()
}

// sendLive sends the lower layers that the target lacks, the pod's own layer
// and its log while the pod runs.
func (f *files) sendLive(ctx context.Context, bulk *stream.Conn, progress func(what string, total int64) (stop func())) error {
	for _, l := range f.layers {
		if !slices.Contains(f.missing, l.Digest) {
			continue
		}
		index, err := stream.Scan(l.Path)
		if err != nil {
			return err
		}
		stop := progress("layer", index.Bytes())
		err = f.sendTree(ctx, bulk, section{Kind: sectionLayer, Name: l.Digest}, l.Path, index.All())
		stop()
		if err != nil {
			return err
		}
	}
	index, err := stream.Scan(own(f.bundle))
	if err != nil {
		return err
	}
	defer progress("files", index.Bytes())()
	if err := f.sendTree(ctx, bulk, section{Kind: sectionUpper}, own(f.bundle), index.All()); err != nil {
		return err
	}
	f.before = index
	if err := f.sendLog(bulk); err != nil {
		return err
	}
	return bulk.WriteJSON(frameSection, section{Kind: sectionLive})
}

func (f *files) sendTree(ctx context.Context, bulk *stream.Conn, s section, root string, change stream.Change) error {
	s.Size = change.Bytes()
	if err := bulk.WriteJSON(frameSection, s); err != nil {
		return err
	}
	stats, err := stream.Send(ctx, bulk, root, change)
	f.sent.Add(stats.Bytes)
	return err
}

// startDelta finds and sends, beside the dump, the last state of everything but
// memory: changed files, the tmpfs trees, the rest of the log. The pod is frozen.
func (f *files) startDelta(ctx context.Context, lane *stream.Conn) {
	f.delta = make(chan error, 1)
	go func() { f.delta <- f.sendDelta(ctx, lane) }()
}

func (f *files) sendDelta(ctx context.Context, lane *stream.Conn) error {
	change, err := f.changes()
	if err != nil {
		return err
	}
	if err := f.sendTree(ctx, lane, section{Kind: sectionUpper, Final: true}, own(f.bundle), change); err != nil {
		return err
	}
	for _, m := range f.mounts.Trees {
		root := fmt.Sprintf("/proc/%d/root%s", f.pid, m.Target)
		index, err := stream.Scan(root)
		if err != nil {
			return err
		}
		if err := f.sendTree(ctx, lane, section{Kind: sectionTree, Name: m.Key}, root, index.All()); err != nil {
			return err
		}
	}
	if err := f.sendQueues(lane); err != nil {
		return err
	}
	if f.pod.Supervised() { // all that the pod has written is in the log before the log is sent
		if _, err := pod.Ask(ctx, f.pod.Dir(), pod.Request{Op: pod.OpDrain}); err != nil {
			return err
		}
	}
	if err := f.sendLog(lane); err != nil {
		return err
	}
	return lane.WriteJSON(frameSection, section{Kind: sectionEnd})
}

func (f *files) changes() (stream.Change, error) {
	now, err := stream.Scan(own(f.bundle))
	if err != nil {
		return stream.Change{}, err
	}
	change := stream.Diff(f.before, now)
	return addMapped(change, now, f.pod), nil
}

// addMapped adds the files that a process of the pod has mapped shared and
// writable: the kernel need not touch their times when they are written to.
func addMapped(change stream.Change, now *stream.Index, p *pod.Pod) stream.Change {
	mapped := mappedFiles(p)
	if len(mapped) == 0 {
		return change
	}
	have := map[string]bool{}
	for i := range change.Changed {
		have[change.Changed[i].Path] = true
	}
	for i := range now.Entries {
		e := &now.Entries[i]
		if mapped["/"+e.Path] && !have[e.Path] && !e.IsDir() {
			change.Changed = append(change.Changed, *e)
		}
	}
	return change
}

func mappedFiles(p *pod.Pod) map[string]bool {
	cg, err := p.Cgroup()
	if err != nil {
		return nil
	}
	pids, err := cg.Procs()
	if err != nil {
		return nil
	}
	mapped := map[string]bool{}
	for _, pid := range pids {
		maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
		if err != nil {
			continue
		}
		lines := bufio.NewScanner(maps)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) > 5 && len(fields[1]) == 4 && fields[1][1] == 'w' && fields[1][3] == 's' && fields[5][0] == '/' {
				mapped[filepath.Clean(strings.Join(fields[5:], " "))] = true
			}
		}
		maps.Close()
	}
	return mapped
}

// sendQueues sends the pod's POSIX message queues, if it has any.
func (f *files) sendQueues(lane *stream.Conn) error {
	queues, err := runtime.SaveQueues(f.pid)
	if err != nil || len(queues) == 0 {
		return err
	}
	data, err := json.Marshal(queues)
	if err != nil {
		return fmt.Errorf("encode message queues: %w", err)
	}
	if err := lane.WriteJSON(frameSection, section{Kind: sectionQueues, Size: int64(len(data))}); err != nil {
		return err
	}
	for piece := range slices.Chunk(data, 256<<10) {
		if err := lane.WriteData(frameBytes, piece); err != nil {
			return err
		}
	}
	return nil
}

// sendImages waits for what startDelta sends and sends CRIU's metadata.
func (f *files) sendImages(ctx context.Context, bulk *stream.Conn, images *os.File) error {
	root := descriptorPath(images)
	if err := criu.MountAnew(root, f.mounts.QueueKeys()); err != nil {
		return err
	}
	if err := criu.ReopenByPath(root, f.reopened); err != nil {
		return err
	}
	if err := criu.RearmTimers(root); err != nil {
		return err
	}
	if err := criu.AccountReserved(root); err != nil {
		return err
	}
	index, err := stream.Scan(root)
	if err != nil {
		return err
	}
	if err := f.sendTree(ctx, bulk, section{Kind: sectionImages}, root, index.All()); err != nil {
		return err
	}
	if err := <-f.delta; err != nil {
		return err
	}
	return bulk.WriteJSON(frameSection, section{Kind: sectionEnd})
}
