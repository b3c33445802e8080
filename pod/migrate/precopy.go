package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/zap-migrate/zap/pod/pages"
)

// Mode says when a pod's memory goes over.
type Mode string

// The modes of a move.
const (
	ModeAuto Mode = "auto" // ModePre for pods that have enough memory for it to pay, else ModeStop
	ModePre  Mode = "pre"  // in rounds while the pod runs; what has changed since, once it is frozen
	ModeStop Mode = "stop" // all of it once the pod is frozen
)

// ParseMode checks a mode's name.
func ParseMode(name string) (Mode, error) {
	switch m := Mode(name); m {
	case ModeAuto, ModePre, ModeStop:
		return m, nil
	}
	return "", fmt.Errorf("%q is no mode of a move: auto, pre or stop", name)
}

// How rounds after the first find what has changed, in a Result.
const (
	trackingSoftDirty = "soft-dirty" // the kernel says which pages were written to
	trackingHashes    = "hashes"     // by reading all of them
)

const (
	// DefaultMaxRounds bounds the rounds of a move whose pod keeps changing its memory.
	DefaultMaxRounds = 8
	// preFrom is from how much memory on rounds pay: below, the pause is that of everything else.
	preFrom = 32 << 20
)

// Ahead says whether err is a target's that could not restore a pod whose memory went ahead. The pod goes on here, and may be moved in
// ModeStop.
func (s *Source) Ahead(err error) bool {
	var target *TargetError
	return len(s.result.Rounds) > 0 && errors.As(err, &target) && target.Restore
}

// RoundReport is one round of pre-copy in a Result.
type RoundReport struct {
	Pages int64   `json:"pages"`           // that were looked at
	Clean int64   `json:"clean,omitempty"` // that were not, for the kernel's tracking says that nobody has written to them since the round before
	Bytes int64   `json:"bytes"`           // of those that were sent
	MS    float64 `json:"ms"`
}

// chooseMode decides what auto stands for, and says why.
func (s *Source) chooseMode() (Mode, string) {
	switch {
	case s.Options.Mode == ModeStop || s.Options.Mode == ModePre:
		return s.Options.Mode, ""
	case s.offer.Manifest.Memory < preFrom:
		return ModeStop, fmt.Sprintf("%d MiB of memory take less time than a round", s.offer.Manifest.Memory>>20)
	}
	return ModePre, ""
}

// preCopy sends the pod's memory while it runs, round after round, until the policy says that it is time to freeze.
func (s *Source) preCopy(ctx context.Context) error {
	mode, why := s.chooseMode()
	s.result.Mode, s.result.Why = mode, why
	if mode == ModeStop {
		return nil
	}
	features, err := s.session.Features(ctx)
	if err != nil {
		return err
	}
	s.result.Tracking = trackingSoftDirty
	if !features.MemTrack {
		s.result.Tracking = trackingHashes
		s.result.Why = "this kernel does not track what is written to (soft-dirty), so every round reads all memory and compares hashes"
	}
	if err := s.bulk.WriteJSON(frameSection, section{Kind: sectionRounds}); err != nil {
		return err
	}
	defer s.progress("memory", s.offer.Manifest.Memory)()
	p := policy{maxRounds: s.Options.MaxRounds, maxDowntime: s.Options.MaxDowntime, memory: s.offer.Manifest.Memory}
	if p.maxRounds <= 0 {
		p.maxRounds = DefaultMaxRounds
	}
	rounds := pages.Rounds{
		Processes: s.processes,
		Tracked:   features.MemTrack,
		Hold:      s.hold,
		Again: func(r pages.Round) (bool, error) {
			s.result.Rounds = append(s.result.Rounds, RoundReport{Pages: r.Pages, Clean: r.Clean, Bytes: r.Bytes(), MS: milliseconds(r.Elapsed)})
			s.emit(Event{Event: "round", Bytes: r.Bytes(), Total: r.Pages * int64(os.Getpagesize()), Detail: r.Elapsed.Round(time.Millisecond).String()})
			return p.again(r)
		},
	}
	s.calm()
	shadow, err := rounds.Run(ctx, s.bulk)
	if err != nil {
		return err
	}
	s.sender.Know(shadow)
	s.tracked = shadow.Tracked()
	return nil
}

// hold stops the pod for the moment in which the tracking of what it writes to begins anew.
func (s *Source) hold(ctx context.Context) (release func() error, err error) {
	if err := s.cgroup.Freeze(ctx); err != nil {
		return nil, errors.Join(err, s.cgroup.ThawNow())
	}
	return s.cgroup.ThawNow, nil
}

// processes lists the pod's processes with the ids that they have inside it.
func (s *Source) processes() ([]pages.Process, error) {
	pids, err := s.cgroup.Procs()
	if err != nil {
		return nil, err
	}
	var all []pages.Process
	for _, pid := range pids {
		if id, ok := innerPID(pid); ok {
			all = append(all, pages.Process{PID: pid, Image: id})
		}
	}
	return all, nil
}

// innerPID is a process's id in its own pid namespace (NSpid in proc_pid_status(5)); false if it has ended.
func innerPID(pid int) (uint32, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false
	}
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(line, []byte("NSpid:"))
		if !ok {
			continue
		}
		ids := bytes.Fields(rest)
		if len(ids) == 0 {
			return 0, false
		}
		id, err := strconv.ParseUint(string(ids[len(ids)-1]), 10, 32)
		return uint32(id), err == nil
	}
	return 0, false
}

// ErrDowntime ends a move whose pause would be longer than Options.MaxDowntime.
var ErrDowntime = errors.New("the pause would be too long")

// policy says after each round whether another is worth its time.
type policy struct {
	maxRounds   int
	maxDowntime time.Duration // 0: any
	memory      int64         // bytes of the pod

	rounds int
	rate   float64 // bytes a second that the first round sent
	before int64   // bytes of the round before
}

const (
	// little is what can be sent in the pause without being noticed beside everything else.
	little = 4 << 20
	// shrink is by how much a round has to be smaller than the one before, else more of them do not help.
	shrink = 0.7
	// scanRate is how fast a frozen pod's memory is compared with what went over, and read by CRIU on the target, in bytes a second:
	// on the cautious side for machines of today.
	scanRate = 1 << 30
	// fixedPause is what a pause takes without memory.
	fixedPause = 80 * time.Millisecond
)

// again is called with each round, and decides.
func (p *policy) again(r pages.Round) (bool, error) {
	p.rounds++
	sent, before := r.Bytes(), p.before
	p.before = sent
	changed := sent // within the round before, so probably within this one, too
	if r.Changed >= 0 {
		changed = r.Changed * int64(os.Getpagesize())
	}
	converges := true
	if p.rounds == 1 {
		p.rate = float64(max(sent, 1)) / max(r.Elapsed.Seconds(), 1e-6)
	} else {
		converges = float64(sent) < shrink*float64(before)
	}
	if changed > little && p.rounds < p.maxRounds && converges {
		return true, nil
	}
	if pause := p.pause(changed); p.maxDowntime > 0 && pause > p.maxDowntime {
		return false, fmt.Errorf("%w: about %v, more than --max-downtime %v, for after %d rounds %d MiB have still changed within the last",
			ErrDowntime, pause.Round(10*time.Millisecond), p.maxDowntime, p.rounds, changed>>20)
	}
	return false, nil
}

// pause estimates how long the pod would stand still if it was frozen now.
func (p *policy) pause(changed int64) time.Duration {
	seconds := float64(changed)/p.rate + float64(p.memory)/scanRate
	return fixedPause + time.Duration(seconds*float64(time.Second))
}
