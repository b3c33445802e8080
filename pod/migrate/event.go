package migrate

import (
	"fmt"
	"sync"
	"time"
)

// Event is one line of `zap migrate --format json` before the result.
type Event struct {
	Event  string    `json:"event"` // phase, progress, round (of memory, before the freeze), retry (the peer is asked again) or again (the move is tried again)
	Time   time.Time `json:"time"`
	Side   string    `json:"side,omitempty"`
	Phase  Phase     `json:"phase,omitempty"`
	What   string    `json:"what,omitempty"`  // of a progress: layer, files or memory
	Bytes  int64     `json:"bytes,omitempty"` // sent so far
	Total  int64     `json:"total,omitempty"` // bytes to send, where it is known
	Rate   int64     `json:"rate,omitempty"`  // bytes per second
	Detail string    `json:"detail,omitempty"`
}

// Result is the last line of `zap migrate --format json`. Times are in
// milliseconds, sizes in bytes.
type Result struct {
	Result      string  `json:"result"`
	PauseMS     float64 `json:"pause_ms"` // from the freeze until the pod runs on the target
	TotalMS     float64 `json:"total_ms"`
	Bytes       int64   `json:"bytes"`        // on the wire, both connections
	MemoryBytes int64   `json:"memory_bytes"` // of the pod's memory
	FileBytes   int64   `json:"file_bytes"`   // of layers, files and metadata
	HeldFrames  int     `json:"held_frames"`
	FrozenBytes int64   `json:"frozen_bytes"`  // of memory_bytes, what was sent while the pod stood still
	Mode        Mode    `json:"mode"`          // of the memory: pre or stop
	Why         string  `json:"why,omitempty"` // of the mode: what spoke for stop, or what pre has to do without
	// Tracking is how rounds after the first found what had changed: soft-dirty, where the kernel tracks it, or hashes.
	Tracking string `json:"tracking,omitempty"`
	// Rounds are those of pre-copy.
	Rounds []RoundReport `json:"rounds,omitempty"`
	// CRIU has when each step of the pause was over, in milliseconds after
	// the freeze began; those with target_ are the length of the target's steps.
	CRIU map[string]float64 `json:"criu"`
	Log  string             `json:"log,omitempty"` // where the log was kept
}

// UnresolvedError says that the pod was committed to the peer but the peer has
// not answered: it runs there as soon as the peer can be told.
type UnresolvedError struct {
	Pod, Peer string
	Err       error
}

func (e *UnresolvedError) Error() string {
	return fmt.Sprintf("pod %s belongs to %s, which does not answer: %v (it is told as soon as it does; "+
		"`zap migrate --resolve commit %s` there lets the pod run at once)", e.Pod, e.Peer, e.Err, e.Pod)
}

func (e *UnresolvedError) Unwrap() error { return e.Err }

// LostError says that the pod was committed to the peer and died there, with its machine, before it ran for good. It has stopped here, with the files
// that it had when it was frozen.
type LostError struct {
	Pod, Peer string
	Err       error
}

func (e *LostError) Error() string {
	return fmt.Sprintf("pod %s died on %s before it ran there for good: %v; it is stopped here, with the files that it had when it was frozen", e.Pod, e.Peer, e.Err)
}

func (e *LostError) Unwrap() error { return e.Err }

// timings collects when steps were over.
type timings struct {
	mu    sync.Mutex
	steps map[string]float64
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Microseconds()) / 1000
}

func (t *timings) mark(step string, begin time.Time) {
	t.set(step, milliseconds(time.Since(begin)))
}

func (t *timings) set(step string, ms float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.steps == nil {
		t.steps = map[string]float64{}
	}
	t.steps[step] = ms
}

// add takes the other side's timings, in microseconds.
func (t *timings) add(prefix string, microseconds map[string]int64) {
	for step, us := range microseconds {
		t.set(prefix+step, float64(us)/1000)
	}
}

func (t *timings) all() map[string]float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.steps
}
