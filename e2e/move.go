package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// moveTimeout bounds a zap migrate that nobody bounded otherwise.
const moveTimeout = 3 * time.Minute

// Event is one line that zap migrate --format json prints: a phase that one side entered, progress, or at the end the
// result.
type Event struct {
	Pod   string `json:"pod"` // of zap drain, and in results
	Event string `json:"event"`
	Side  string `json:"side"`
	Phase string `json:"phase"`

	Result      string  `json:"result"` // "migrated" in the last line of a move that went through
	Error       string  `json:"error"`
	PauseMS     float64 `json:"pause_ms"`
	TotalMS     float64 `json:"total_ms"`
	Bytes       int64   `json:"bytes"`
	MemoryBytes int64   `json:"memory_bytes"`
	FileBytes   int64   `json:"file_bytes"`
	HeldFrames  int64   `json:"held_frames"`
	FrozenBytes int64   `json:"frozen_bytes"`
	Mode        string  `json:"mode"`
	Why         string  `json:"why"`
	Tracking    string  `json:"tracking"`
	Rounds      []struct {
		Pages int64 `json:"pages"`
		Clean int64 `json:"clean"`
		Bytes int64 `json:"bytes"`
	} `json:"rounds"`
	// Steps of the pause, in milliseconds from the freeze to the end of each; those with target_ are lengths.
	Steps map[string]float64 `json:"criu"`

	At  time.Time `json:"-"` // when the line was read
	Raw string    `json:"-"`
}

// Move is a zap migrate that is under way, or has been.
type Move struct {
	Pid    int // of zap migrate
	Events []Event
	Final  Event // the line with the result, empty when there was none
	Result Result

	t      testing.TB
	cmd    *exec.Cmd
	stderr bytes.Buffer
	lines  chan Event
	stop   context.CancelFunc
	ctx    context.Context
}

// MoveOptions say how to move.
type MoveOptions struct {
	Args    []string // more flags of zap migrate
	Env     []string // NAME=VALUE, added to zap migrate's environment
	Timeout time.Duration
}

// StartMove starts zap migrate in the host.
func (h *Host) StartMove(t testing.TB, pod string, to *Host, o MoveOptions) *Move {
	t.Helper()
	return h.startMove(t, o, "migrate", pod, to.Peer())
}

// startMove starts a verb that moves pods.
func (h *Host) startMove(t testing.TB, o MoveOptions, verb string, operands ...string) *Move {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = moveTimeout
	}
	args := append(h.logFlags(), append([]string{verb, "--tls", h.TLS, "--format", "json"}, o.Args...)...)
	m := &Move{t: t, lines: make(chan Event, 1024)}
	m.ctx, m.stop = context.WithTimeout(context.Background(), o.Timeout)
	m.cmd = h.Command(m.ctx, h.binary(t), h.zapArgs(append(args, operands...)...)...)
	m.cmd.Env = append(os.Environ(), o.Env...)
	m.cmd.Stderr = &m.stderr
	m.cmd.WaitDelay = closeDelay
	stdout, err := m.cmd.StdoutPipe()
	if err == nil {
		err = processes.start(m.cmd)
	}
	if err != nil {
		t.Fatalf("start zap %s: %v", verb, err)
	}
	m.Pid = m.cmd.Process.Pid
	go m.read(stdout)
	return m
}

// read reads the events; the channel is closed after the last.
func (m *Move) read(stdout io.Reader) {
	defer close(m.lines)
	for s := bufio.NewScanner(stdout); s.Scan(); {
		e := Event{At: time.Now(), Raw: s.Text()}
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			e.Error = fmt.Sprintf("not an event: %v", err)
		}
		m.lines <- e
	}
}

// next takes one event, false after the last.
func (m *Move) next(ctx context.Context) (Event, bool) {
	select {
	case e, ok := <-m.lines:
		if ok {
			m.note(e)
		}
		return e, ok
	case <-ctx.Done():
		return Event{}, false
	}
}

func (m *Move) note(e Event) {
	m.Events = append(m.Events, e)
	if e.Result != "" {
		m.Final = e
	}
}

// Await reads events until a side enters a phase. False means that the move ended before, or within has passed.
func (m *Move) Await(side, phase string, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(m.ctx, within)
	defer cancel()
	for {
		e, ok := m.next(ctx)
		if !ok {
			return false
		}
		if e.Event == "phase" && e.Side == side && e.Phase == phase {
			return true
		}
	}
}

// Ended says whether zap migrate has ended, or has at least said its last word.
func (m *Move) Ended() bool {
	for {
		select {
		case e, ok := <-m.lines:
			if !ok {
				return true
			}
			m.note(e)
		default:
			return false
		}
	}
}

// Wait waits until zap migrate has ended.
func (m *Move) Wait() Result {
	if m.Result.Stdout != "" || m.Result.Err != nil {
		return m.Result
	}
	for {
		if _, ok := m.next(m.ctx); !ok {
			break
		}
	}
	err := processes.wait(m.cmd)
	if m.ctx.Err() != nil {
		err = fmt.Errorf("zap did not end in time: %w", m.ctx.Err())
	}
	m.stop()
	var out strings.Builder
	for _, e := range m.Events {
		out.WriteString(e.Raw + "\n")
	}
	m.Result = Result{Stdout: out.String(), Stderr: m.stderr.String(), Code: m.cmd.ProcessState.ExitCode(), Err: err}
	return m.Result
}

// Migrate moves a pod, which must go through, and answers with the last line.
func (h *Host) Migrate(t testing.TB, pod string, to *Host, args ...string) Event {
	t.Helper()
	m := h.StartMove(t, pod, to, MoveOptions{Args: args})
	if r := m.Wait(); r.Err != nil || m.Final.Result != "migrated" {
		t.Fatalf("migrate %s from %s to %s: %v", pod, h.Name, to.Name, r)
	}
	return m.Final
}
