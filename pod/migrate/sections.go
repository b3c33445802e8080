package migrate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/pod/pages"
)

// laneOrder is the order of the sections of each lane. A tree is received only
// while nobody else changes it, so what a lane may send when is not up to the peer.
var laneOrder = [laneCount][]string{
	laneMemory: {sectionLayer, sectionUpper, sectionLog, sectionLive, sectionRounds, sectionMemory, sectionImages, sectionEnd},
	laneFiles:  {sectionUpper, sectionTree, sectionQueues, sectionLog, sectionEnd},
}

// repeated are the sections that may come more than once.
var repeated = []string{sectionLayer, sectionLog, sectionTree}

// laneReader says which section may come next on a lane.
type laneReader struct {
	order []string
	at    int             // the place of the last section in order
	trees map[string]bool // that have come
}

func newLaneReader(lane int) *laneReader {
	return &laneReader{order: laneOrder[lane], at: -1, trees: map[string]bool{}}
}

// next takes a section if it may come now.
func (l *laneReader) next(s *section) error {
	at := slices.Index(l.order, s.Kind)
	if at < 0 || at < l.at || at == l.at && !slices.Contains(repeated, s.Kind) || s.Kind == sectionTree && l.trees[s.Name] {
		return fmt.Errorf("section %q out of turn", s.Kind)
	}
	l.at = at
	if s.Kind == sectionTree {
		l.trees[s.Name] = true
	}
	return nil
}

// store takes the sections of a lane in. Those of the files' lane wait until
// the pod is frozen, which the control connection tells.
func (in *incoming) store(ctx context.Context, conn *stream.Conn, lane int) error {
	reader := newLaneReader(lane)
	for {
		f, err := conn.Read()
		if err != nil {
			return err
		}
		var s section
		if f.Type != frameSection {
			return fmt.Errorf("%s sent frame %#02x where a section begins", conn, f.Type)
		}
		if err := f.JSON(&s); err != nil {
			return err
		}
		if err := reader.next(&s); err != nil {
			return fmt.Errorf("%s: %w", conn, err)
		}
		if lane == laneFiles {
			select {
			case <-in.frozen:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		switch {
		case s.Kind == sectionEnd && in.isReady():
			return nil
		case s.Kind == sectionEnd || s.Kind == sectionMemory && !in.isReady():
			return fmt.Errorf("%s sent section %s before the pod's files", conn, s.Kind)
		}
		if err := in.storeSection(ctx, conn, &s, lane); err != nil {
			return err
		}
	}
}

func (in *incoming) storeSection(ctx context.Context, conn *stream.Conn, s *section, lane int) error {
	var err error
	switch s.Kind {
	case sectionLayer:
		err = receiveLayer(ctx, conn, in.target.Runtime.Root(), s.Name, in.missing)
	case sectionUpper:
		_, err = stream.Receive(ctx, conn, own(in.bundle), stream.Limits{})
		if err == nil && lane == laneMemory {
			// Not earlier: an overlay keeps the mode that its upper directory has when it is made.
			err = in.filesHere(ctx)
		}
	case sectionLog:
		err = in.storeLog(conn, s)
	case sectionLive:
		err = in.tellReady()
	case sectionQueues:
		err = in.storeQueues(conn, s)
	case sectionTree:
		err = in.storeTree(ctx, conn, s)
	case sectionRounds:
		err = in.storeRounds(ctx, conn)
	case sectionMemory:
		_, err = pages.Receive(ctx, conn, in.images, pages.Limits{})
	case sectionImages:
		_, err = stream.Receive(ctx, conn, descriptorPath(in.images), stream.Limits{MaxBytes: 8 << 30})
	}
	return err
}

// storeRounds takes memory in while the pod runs. CRIU looks for it where it looks for the images of an earlier dump.
func (in *incoming) storeRounds(ctx context.Context, conn *stream.Conn) error {
	path := filepath.Join(descriptorPath(in.images), pages.Parent)
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return pages.ReceiveRounds(ctx, conn, dir, pages.Limits{})
}

func (in *incoming) storeTree(ctx context.Context, conn *stream.Conn, s *section) error {
	for i, m := range in.offer.Mounts.Trees {
		if m.Key == s.Name {
			_, err := stream.Receive(ctx, conn, descriptorPath(in.trees[i]), stream.Limits{})
			return err
		}
	}
	return fmt.Errorf("%s sent a tmpfs called %q that it did not offer", conn, s.Name)
}

func descriptorPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d/.", f.Fd()) }

// storeBytes takes the content of a section that is no tree.
func storeBytes(conn *stream.Conn, s *section, limit int64, take func([]byte) error) error {
	if s.Size < 0 || s.Size > limit {
		return fmt.Errorf("%s sent %d bytes of %s, more than %d", conn, s.Size, s.Kind, limit)
	}
	for left := s.Size; left > 0; {
		f, err := conn.Read()
		if err != nil {
			return err
		}
		n := int64(len(f.Payload))
		if f.Type != frameBytes || f.Control || n > left || n == 0 {
			return fmt.Errorf("%s sent frame %#02x within section %s", conn, f.Type, s.Kind)
		}
		if err := take(f.Payload); err != nil {
			return fmt.Errorf("store %s: %w", s.Kind, err)
		}
		left -= n
	}
	return nil
}

// storeLog writes to one of the pod's logs from the section's offset on, which
// is where it ends, or 0 to replace it.
func (in *incoming) storeLog(conn *stream.Conn, s *section) error {
	path := pod.LogPath(in.dir)
	if s.Rotate {
		if err := os.Rename(path, pod.OldLogPath(path)); err != nil {
			return fmt.Errorf("store log: %w", err)
		}
	}
	switch s.Name {
	case "":
	case oldLog:
		path = pod.OldLogPath(path)
	default:
		return fmt.Errorf("%s sent a log called %q", conn, s.Name)
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("store log: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err == nil && s.Offset != 0 && s.Offset != info.Size() {
		return fmt.Errorf("%s sent the log from %d on, where %d bytes have come", conn, s.Offset, info.Size())
	}
	if err == nil {
		err = file.Truncate(s.Offset)
	}
	if err == nil {
		_, err = file.Seek(0, io.SeekEnd)
	}
	if err != nil {
		return fmt.Errorf("store log: %w", err)
	}
	return storeBytes(conn, s, maxLog-s.Offset, func(b []byte) error {
		_, err := file.Write(b)
		return err
	})
}

const (
	maxLog        = 1 << 30 // of one log; pod.logWriter begins a new one long before
	maxQueueBytes = 8 << 20 // of the pod's message queues, as JSON
)

// storeQueues takes the pod's message queues in, which are made when it is restored.
func (in *incoming) storeQueues(conn *stream.Conn, s *section) error {
	var data []byte
	err := storeBytes(conn, s, maxQueueBytes, func(b []byte) error {
		data = append(data, b...)
		return nil
	})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, &in.queues); err != nil {
		return fmt.Errorf("read message queues: %w", err)
	}
	return nil
}

// supervise starts the pod's supervisor, which prepares the network and the cgroup
// beside what is received, then the mounts and CRIU.
func (in *incoming) supervise() error {
	job := &pod.ArrivalJob{
		ID: in.offer.Pod, Migration: in.offer.Migration, From: in.from, Bundle: in.bundle, Record: localRecord(in.offer, in.from, in.bundle),
		Network: in.offer.Network, Mounts: in.offer.Mounts, HoldBytes: in.target.HoldBytes, Rows: in.offer.Rows,
		Columns: in.offer.Columns, Status: in.offer.Status, Criu: in.target.Binary, CacheDir: in.target.CacheDir,
	}
	if job.Network != nil {
		local := job.Network.Clone()
		local.HostLink = pod.HostLink(in.target.Runtime.Root(), in.offer.Pod)
		job.Network = &local
	}
	super, err := in.target.employ(job, in.images, in.trees, in.failures)
	in.mu.Lock()
	in.super = super
	in.mu.Unlock()
	return err
}

// filesHere lets the supervisor mount the pod's files and waits until it is ready.
func (in *incoming) filesHere(ctx context.Context) error {
	super := in.supervisor()
	super.say(pod.ArrivalFiles)
	if _, err := super.expect(ctx, pod.ArrivalReady); err != nil {
		return err
	}
	in.mu.Lock()
	in.upper = true
	in.mu.Unlock()
	return nil
}

// tellReady lets the source freeze the pod: all that it sends before is here.
func (in *incoming) tellReady() error {
	in.mu.Lock()
	in.ready = in.upper
	in.mu.Unlock()
	if !in.isReady() {
		return fmt.Errorf("%s sent nothing of the pod's files", in.conn)
	}
	return in.conn.WriteJSON(frameReady, struct{}{})
}
