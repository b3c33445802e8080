package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/pod/pages"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/vdso"
)

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
	if s.tracked {
		if err := criu.SetParent(options, descriptorPath(s.images), pages.Parent); err != nil {
			return err
		}
	}
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
		QueryExternal: func() ([]string, error) { // CRIU holds the pod, and has looked at none of its sockets
			if s.stopped {
				s.files.startDelta(ctx, s.side) // only now does nothing change any more
			} else if cause = s.lockNetwork(ctx); cause != nil {
				return nil, cause
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
	if kerr := pod.KeepLog(ctx, s.Runtime, s.Pod.ID(), s.offer.Migration, options, err); kerr != nil {
		s.Log.Warn("dump", "pod", s.Pod.ID(), "error", kerr.Error())
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
// address is its own now. The clients' pause begins here. While the target takes the address over, CRIU begins.
func (s *Source) freeze(ctx context.Context) error {
	if err := s.journal.Enter(Frozen); err != nil {
		return err
	}
	s.frozen = time.Now()
	if err := s.stop(ctx); err != nil {
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
		return nil
	}
	if err := s.lockNetwork(ctx); err != nil {
		return err
	}
	return s.cgroup.ThawNow() // CRIU stops the pod itself
}

// vdsoPatience is how long a pod is stopped again and again until none of its threads is in the vDSO.
const vdsoPatience = 2 * time.Second

// stop freezes the pod, none of its threads in code of a vDSO that it will not find again at the target.
func (s *Source) stop(ctx context.Context) error {
	if s.sameVDSO {
		return s.cgroup.Freeze(ctx)
	}
	inside, err := vdso.Freeze(ctx, s.cgroup, vdsoPatience)
	if err == nil && len(inside) > 0 {
		err = errors.Join(fmt.Errorf("freeze pod: %v reads the clock without a pause, and the peer's kernel has other code for that (vdso(7); "+
			"the pod goes on here: try again when it is less busy)", inside[0]), s.cgroup.Thaw(ctx))
	}
	return err
}

// knownVDSO is the digest of this kernel's vDSO; empty when the pod has that of another kernel, too.
func (s *Source) knownVDSO() (string, error) {
	pids, err := s.cgroup.Procs()
	if err != nil || vdso.Foreign(pids) {
		return "", err
	}
	return vdso.Digest()
}

// lockNetwork waits until the target holds what comes for the pod, and cuts off the rest: CRIU can look at the sockets.
func (s *Source) lockNetwork(ctx context.Context) error {
	if err := s.control.wait(ctx, frameAnnounced); err != nil {
		return err
	}
	s.timings.mark("announced", s.frozen)
	if s.offer.Network == nil {
		return nil
	}
	// For ever, as far as the namespace of an engine goes, which stays when the pod has left.
	return s.net.Lock(ctx)
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
		s.sender.Abort(err)
		return err
	}
	defer s.progress("memory", s.offer.Manifest.Memory)()
	stats, err := s.sender.Run(ctx, s.bulk)
	s.result.MemoryBytes, s.result.FrozenBytes = stats.Pages*int64(os.Getpagesize()), stats.Bytes
	s.timings.mark("memory", s.frozen)
	return err
}

// park is called with the whole pod stopped and all images written. Its nil is
// the verdict that the pod is the target's.
func (s *Source) park(ctx context.Context, memory <-chan error) error {
	// Should CRIU die from here on, the pod must not run: the freezer holds it.
	if err := fence(s.cgroup); err != nil {
		return err
	}
	if err := <-memory; err != nil {
		return fmt.Errorf("send memory: %w", err)
	}
	if s.tracked { // the target has its own
		if err := criu.DropParent(descriptorPath(s.images), pages.Parent); err != nil {
			return err
		}
	}
	if err := s.files.sendImages(ctx, s.bulk, s.images); err != nil {
		return err
	}
	s.timings.mark("sent", s.frozen)
	if err := s.journal.Enter(Sent); err != nil {
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
	// The word may have waited here while this process stood still, and the target
	// may have given up meanwhile. What it says now, it says now.
	if err := s.control.conn.WriteJSON(frameConfirm, struct{}{}); err != nil {
		return err
	}
	if err := s.control.wait(ctx, frameConfirmed); err != nil {
		return err
	}
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
