package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/runtime"
)

// errCalledOff ends an arrival whose source, or an operator, wants the pod not to come.
var errCalledOff = errors.New("the move was called off")

// listen reads serve's words. The verdict may come at any time once the pod is
// prepared; the end of the connection is an abort only before that.
func (s *Supervisor) listen(ctx context.Context, words chan<- ArrivalWord) {
	a := s.arrival
	for {
		line, err := readLine(a.conn.Lines)
		var w ArrivalWord
		if err == nil {
			err = json.Unmarshal(line, &w)
		}
		if err != nil {
			s.loseServe(ctx)
			return
		}
		switch w.Word {
		case ArrivalConfirm:
			a.confirm()
			continue
		case ArrivalCommit:
			if !a.decide(true) {
				a.cancel(errors.New("zap serve said commit out of turn"))
			}
			continue
		case ArrivalAbort:
			if !a.decide(false) {
				a.cancel(errCalledOff)
			}
			continue
		}
		select {
		case words <- w:
		case <-ctx.Done():
			return
		}
	}
}

// loseServe is what happens when nobody is there any more who speaks with the
// source: a pod that is not prepared is dropped. For one that is, nobody here can tell
// whether the source has taken its address back, so it is kept out of the network.
func (s *Supervisor) loseServe(ctx context.Context) {
	a := s.arrival
	a.mu.Lock() // enter holds it while a phase becomes durable
	defer a.mu.Unlock()
	switch {
	case a.phase == phaseRunning || a.decided:
	case a.phase != phasePrepared:
		a.cancel(errors.New("zap serve went away"))
	case s.record.Network != nil:
		a.away = true
		if err := s.net.Detach(context.WithoutCancel(ctx)); err != nil {
			s.log.Error("detach link", "pod", s.id, "error", err.Error())
		}
	}
}

// confirm answers serve if the pod is prepared and nothing is decided about it.
func (a *arrival) confirm() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.phase == phasePrepared && !a.decided {
		a.say(ArrivalWord{Word: ArrivalConfirmed})
	}
}

// decide gives the verdict if the pod is prepared and none was given before.
// It says whether one is given now.
func (a *arrival) decide(commit bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.phase != phasePrepared || a.decided {
		return a.decided
	}
	a.decided = true
	a.verdict <- commit
	return true
}

// restore lets CRIU restore the tree and parks it until the verdict.
func (s *Supervisor) restore(ctx context.Context) error {
	a := s.arrival
	begin := time.Now()
	request := &runtime.RestoreRequest{Bundle: a.job.Bundle, Mounts: &a.job.Mounts, Images: a.images}
	for i, name := range a.job.Record.Streams {
		if name != "" && s.stream.child[i] != nil {
			request.Streams = append(request.Streams, runtime.Stream{Name: name, FD: a.session.FD(i)})
		}
	}
	var refused error
	committed := false
	callbacks := criu.Callbacks{
		SetupNamespaces: func(pid int) error { return runtime.RestoreQueues(pid, a.queues) },
		PostRestore:     func(pid int) error { s.setPid(pid); return nil },
		PreResume: func() error {
			a.since("restore", begin)
			if refused = s.park(ctx); refused != nil {
				s.silence()
				return refused
			}
			committed = true
			return nil
		},
	}
	if a.job.Record.TTY {
		callbacks.OrphanPtsMaster = s.stream.setMaster
	}
	options := runtime.RestoreOptions(request)
	_, err := a.session.Restore(ctx, options, callbacks)
	if kerr := KeepLog(ctx, s.rt, s.id, a.job.Migration, options, err); kerr != nil {
		s.log.Warn("restore", "pod", s.id, "error", kerr.Error())
	}
	switch {
	case !committed && refused != nil:
		return refused
	case !committed && err == nil:
		return errors.New("criu restored the pod without asking")
	case !committed:
		return err
	}
	// From here on the pod lives here whatever happens.
	resumed := time.Now()
	if err != nil {
		s.log.Error("restore", "pod", s.id, "error", err.Error())
	}
	s.settle(resumed)
	return nil
}

// park is called when every step of CRIU's that can fail is behind: it does those
// of ours, journals Prepared and waits for the verdict, for as long as it takes.
func (s *Supervisor) park(ctx context.Context) error {
	a := s.arrival
	if err := a.limitMemory(); err != nil {
		return err
	}
	if err := s.writeDown(ctx); err != nil {
		return err
	}
	// Should this process or CRIU die here, CRIU's hold on the tree ends and it would
	// run: the freezer has it then. CRIU is in the same cgroup and stands still too.
	if err := a.cgroup.FreezeNow(); err != nil {
		return err
	}
	if err := a.enter(ctx, phasePrepared); err != nil {
		return err
	}
	a.say(ArrivalWord{Word: ArrivalPrepared, Pid: s.pid, Timings: a.timings})
	if commit := <-a.verdict; !commit {
		return errCalledOff
	}
	s.commit(context.WithoutCancel(ctx))
	return nil
}

// commit lets the pod run. Whatever fails here does not stop it: the source has
// given it away.
func (s *Supervisor) commit(ctx context.Context) {
	a := s.arrival
	complain := func(step string, err error) {
		if err != nil {
			s.log.Error(step, "pod", s.id, "error", err.Error())
		}
	}
	complain("journal", a.enter(ctx, phaseRunning))
	a.mu.Lock()
	away := a.away
	a.phase, a.away = phaseRunning, false
	a.mu.Unlock()
	if away {
		complain("attach link", s.takeAddress(ctx))
	}
	begin := time.Now()
	if a.hold != nil {
		held, err := a.hold.Release(ctx)
		complain("release held frames", err)
		a.mu.Lock()
		a.held = held
		a.mu.Unlock()
	}
	a.since("release", begin)
	complain("thaw", a.cgroup.ThawNow())
}

// enter journals a phase, unless the move was called off.
func (a *arrival) enter(ctx context.Context, phase string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := a.journal.Append(phase); err != nil {
		return err
	}
	a.phase = phase
	return nil
}

// kill kills the restored tree. Its connections go without a word, for they
// live on at the source; what would say goodbye would keep the network namespace
// for the minutes that TCP waits for an answer.
func (a *arrival) kill() {
	if pids, err := a.cgroup.Procs(); err == nil {
		_ = network.Repair(pids, true)
	}
	_ = a.cgroup.KillNow()
}

// silence kills the restored tree while its gate is closed, so that nothing
// that its sockets say when they die leaves the host.
func (s *Supervisor) silence() {
	if s.arrival.hold != nil {
		s.arrival.hold.Discard()
	}
	s.arrival.kill()
	_ = s.arrival.cgroup.ThawNow()
}

// writeDown prepares the pod's state, so that a full disk shows before the
// source gives the pod away.
func (s *Supervisor) writeDown(ctx context.Context) error {
	a := s.arrival
	s.record.Supervisor = Self()
	s.record.Moves++
	s.record.From, s.record.Migration = a.job.From, a.job.Migration
	s.record.Streams = s.stream.identities()
	s.joinNetwork(a.job.Bundle.Spec)
	extra, err := json.Marshal(&s.record)
	if err != nil {
		return fmt.Errorf("encode pod record: %w", err)
	}
	a.pending, err = s.rt.PrepareAdoption(ctx, s.id, a.job.Bundle, s.pid, a.cgroup, extra)
	return err
}

// settle records the pod, which has resumed, as running here.
func (s *Supervisor) settle(resumed time.Time) {
	a := s.arrival
	_ = s.stream.log.open() // a reader finds it, even when the pod has written nothing
	s.stream.start()
	if a.job.Rows > 0 {
		_ = s.stream.resize(a.job.Rows, a.job.Columns)
	}
	// The source removes its files when it hears that the pod runs: what programs
	// had synced there must not be in this host's cache only. A pod that has a state after a crash has its files.
	if err := SyncFiles(s.dir); err != nil {
		s.log.Error("sync files", "pod", s.id, "error", err.Error())
	}
	var err error
	if s.pod, err = a.pending.Commit(); err != nil {
		s.log.Error("record pod", "pod", s.id, "error", err.Error())
	}
	a.since("settle", resumed)
	a.say(ArrivalWord{Word: ArrivalRunning, Pid: s.pid, HeldFrames: a.held, Timings: a.timings})
	for _, f := range append(a.trees, a.images) {
		f.Close()
	}
	_ = a.session.Close()
	if err := a.limitLate(); err != nil {
		s.log.Error("limit memory", "pod", s.id, "error", err.Error())
	}
	if err := a.journal.Remove(); err != nil {
		s.log.Error("end journal", "pod", s.id, "error", err.Error())
	}
}

// SyncFiles makes durable what is on the file system of dir (syncfs(2)). Of a file that was just written a crash may leave the right size
// with zeros in it, even where its name and size are durable: whoever finds files again after a crash has to have called this.
func SyncFiles(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync files: %w", err)
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync files: syncfs %s: %w", dir, err)
	}
	return nil
}

// doArrival answers a request about the move that brings the pod. Of another
// move nothing is known here.
func (s *Supervisor) doArrival(r Request) *Answer {
	a := s.arrival
	if a == nil || r.Migration != a.job.Migration {
		return &Answer{Phase: phaseDiscarded}
	}
	switch r.Op {
	case OpCommit:
		if !a.decide(true) {
			return &Answer{Error: "the pod is not prepared yet"}
		}
		if <-a.finished; a.failure != nil {
			return &Answer{Error: a.failure.Error()}
		}
	case OpAbort:
		if !a.decide(false) {
			a.cancel(errCalledOff)
		}
		if <-a.finished; a.failure == nil {
			return &Answer{Error: "the pod runs here already"}
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return &Answer{Migration: a.job.Migration, Phase: a.phase, HeldFrames: a.held, Pid: s.pidNow()}
}
