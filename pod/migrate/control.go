package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/spec"
)

// pingEvery is how often an idle control connection shows that it lives.
const pingEvery = 500 * time.Millisecond

// control is the source's end of the control connection: one goroutine reads
// it, and whoever waits for a frame gets it, the peer's failure or the loss of
// the connection.
type control struct {
	conn   *stream.Conn
	phases func(Phase)
	stop   func()

	mu      sync.Mutex
	frames  map[uint8][]byte
	turn    int           // how many of turns have come
	arrived chan struct{} // closed and replaced at every frame
	failure error
	lost    []func(error)
	taken   bool // the target has accepted
}

// turns is the order of the target's frames in a move.
var turns = []uint8{frameAccept, frameReady, frameAnnounced, framePrepared, frameConfirmed, frameRunning}

// RejectedError carries every reason why the peer will not take the pod.
type RejectedError struct {
	Peer     string
	Blockers []spec.Blocker
}

func (e *RejectedError) Error() string {
	text := fmt.Sprintf("%s can't take the pod:", e.Peer)
	for _, b := range e.Blockers {
		text += "\n  " + b.String()
	}
	return text
}

// TargetError is what the target says of its failure. It has cleaned up.
type TargetError struct {
	Peer, Reason string
	Restore      bool // its CRIU could not restore the pod
}

func (e *TargetError) Error() string { return e.Peer + ": " + e.Reason }

func newControl(ctx context.Context, conn *stream.Conn, idle time.Duration, phases func(Phase)) *control {
	c := &control{conn: conn, phases: phases, frames: map[uint8][]byte{}, arrived: make(chan struct{})}
	conn.SetIdle(idle)
	c.stop = conn.KeepAlive(pingEvery)
	go c.read()
	return c
}

func (c *control) read() {
	for {
		f, err := c.conn.Read()
		if err != nil {
			c.fail(err)
			return
		}
		if err := c.take(f); err != nil {
			c.fail(err)
			return
		}
	}
}

// take sorts one frame.
func (c *control) take(f stream.Frame) error {
	switch {
	case f.Type == framePhase:
		var note phaseNote
		if err := f.JSON(&note); err != nil {
			return err
		}
		if !slices.Contains(targetPhases, note.Phase) {
			return fmt.Errorf("%s says that it is in phase %q", c.conn, note.Phase)
		}
		c.phases(note.Phase)
		return nil
	case f.Type == frameReject:
		return c.rejected(f)
	case f.Type == frameFailed:
		var reason failed
		if err := f.JSON(&reason); err != nil {
			return err
		}
		c.mu.Lock()
		c.taken = false // it has cleaned up already
		c.mu.Unlock()
		return &TargetError{Peer: c.conn.String(), Reason: printable(reason.Reason), Restore: reason.Stage == pod.StageRestore}
	case f.Optional():
		return nil
	case !f.Control:
		return fmt.Errorf("%s sent data on the control connection", c.conn)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case f.Type == frameDiscarded:
	case c.turn < len(turns) && f.Type == turns[c.turn]:
		c.turn++
	default:
		return fmt.Errorf("%s sent frame %#02x out of turn", c.conn, f.Type)
	}
	if f.Type == frameAccept {
		c.taken = true
	}
	c.frames[f.Type] = append([]byte(nil), f.Payload...)
	close(c.arrived)
	c.arrived = make(chan struct{})
	return nil
}

// maxBlockers is how many reasons of a peer are shown.
const maxBlockers = 1000

// rejected is the error for a peer that will not take the pod.
func (c *control) rejected(f stream.Frame) error {
	var r reject
	if err := f.JSON(&r); err != nil {
		return err
	}
	e := &RejectedError{Peer: c.conn.String()}
	for _, b := range r.Blockers[:min(len(r.Blockers), maxBlockers)] {
		e.Blockers = append(e.Blockers, spec.Blocker{
			Code: printable(b.Code), Subject: printable(b.Subject), Detail: printable(b.Detail), Hint: printable(b.Hint),
		})
	}
	return e
}

// printable is a peer's text for a person's terminal: bounded, and without what
// a terminal would take for a command.
func printable(text string) string {
	const most = 8 << 10
	if len(text) > most {
		text = text[:most] + "..."
	}
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

func (c *control) fail(err error) {
	c.mu.Lock()
	if c.failure == nil {
		c.failure = err
	}
	lost := c.lost
	c.lost = nil
	close(c.arrived)
	c.arrived = make(chan struct{})
	c.mu.Unlock()
	for _, f := range lost {
		f(err)
	}
}

// onLost calls f when the connection is lost or the peer has failed.
func (c *control) onLost(f func(error)) {
	c.mu.Lock()
	failure := c.failure
	if failure == nil {
		c.lost = append(c.lost, f)
	}
	c.mu.Unlock()
	if failure != nil {
		f(failure)
	}
}

// cause is why the connection is of no more use; nil if it is.
func (c *control) cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failure
}

// explainWithin is how long to wait for the peer's own words when the bulk
// connection breaks: it closes that first.
const explainWithin = 500 * time.Millisecond

// explain prefers what the peer says went wrong over what that broke here.
func (c *control) explain(err error) error {
	if c == nil {
		return err
	}
	for end := time.Now().Add(explainWithin); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if cause := c.cause(); cause != nil {
			if errors.Is(err, cause) {
				return err
			}
			return cause
		}
		if !isNetwork(err) {
			return err
		}
	}
	return err
}

// isNetwork says whether err is a connection's own, so that the reason may be elsewhere.
func isNetwork(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// accepted says whether the target has something of the pod.
func (c *control) accepted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taken
}

// wait waits for a frame without interest in its body.
func (c *control) wait(ctx context.Context, typ uint8) error {
	var ignored any
	return c.expect(ctx, typ, &ignored)
}

// expect waits for a frame of a type and decodes it into v.
func (c *control) expect(ctx context.Context, typ uint8, v any) error {
	for {
		c.mu.Lock()
		payload, here := c.frames[typ]
		failure, arrived := c.failure, c.arrived
		c.mu.Unlock()
		if here {
			return stream.Frame{Type: typ, Control: true, Payload: payload}.JSON(v)
		}
		if failure != nil {
			return failure
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *control) close() {
	c.stop()
	_ = c.conn.Close()
}

// firstCause picks, of all that went wrong with a dump, what went wrong first.
func firstCause(ctx context.Context, cause, dump error, memory <-chan error, c *control) error {
	var rejected error
	if c != nil {
		rejected = c.cause()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var sending error
	select {
	case sending = <-memory:
	default:
	}
	// CRIU closes the page channel when it fails for a reason of its own.
	var own *criu.Error
	if errors.As(dump, &own) && own.Cause != "" && !strings.Contains(own.Cause, "page") {
		sending = nil
	}
	for _, err := range []error{cause, rejected, sending, dump} {
		if err != nil {
			return err
		}
	}
	return errors.New("criu ended the dump without asking")
}
