package stream

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// RemoteError is what the peer reports about its own side.
type RemoteError struct {
	Peer string // as Conn.String names it
	Text string
}

func (e *RemoteError) Error() string { return e.Peer + ": " + e.Text }

// errDrained is met by a peer that goes on although it was told to stop.
var errDrained = errors.New("peer goes on although the transfer failed")

// maxDrain is how many bytes may still come after this side reported a failure: more than sockets buffer.
const maxDrain = 256 << 20

// readBuffers is how many payloads ReadAhead holds.
const readBuffers = 2

// Reader reads frames ahead of their use in a goroutine of its own.
type Reader struct {
	conn *Conn
	free chan []byte
	full chan readItem
	held []byte // buffer of the frame that Next returned last
	last uint8

	err    error // what Next returns once it is done
	done   bool
	broken bool
}

type readItem struct {
	frame Frame
	buf   []byte
	err   error
}

// ReadAhead starts reading frames up to and including the first of type last. Nothing else may read from the connection until Next has
// returned that frame or an error. Close must be called.
func (c *Conn) ReadAhead(last uint8) *Reader {
	r := &Reader{conn: c, free: make(chan []byte, readBuffers), full: make(chan readItem, readBuffers), last: last}
	for range readBuffers {
		r.free <- nil
	}
	go r.run()
	return r
}

func (r *Reader) run() {
	for buf := range r.free {
		frame, err := r.conn.ReadBuffer(&buf)
		r.full <- readItem{frame, buf, err}
		if err != nil || frame.Type == r.last {
			return
		}
	}
}

// Next returns the next frame. Its payload is valid until the next call. After the last frame, or an error, it returns the same error.
func (r *Reader) Next() (Frame, error) {
	if r.done {
		return Frame{}, r.err
	}
	if r.held != nil {
		r.free <- r.held
		r.held = nil
	}
	item := <-r.full
	if item.buf == nil {
		item.buf = []byte{}
	}
	r.held = item.buf
	if item.err != nil || item.frame.Type == r.last {
		r.done, r.broken, r.err = true, item.err != nil, item.err
		if r.err == nil {
			r.err = fmt.Errorf("read from %s: nothing follows a frame of type %#02x", r.conn, r.last)
		}
	}
	return item.frame, item.err
}

// Close lets the goroutine end if the conversation did not come to its end. It is called once, after the last Next.
func (r *Reader) Close() { close(r.free) }

// Broken says whether the connection failed, as opposed to what came over it.
func (r *Reader) Broken() bool { return r.broken }

// Drain skips what follows up to the last frame, so that the connection can be used again after this side has failed and told the peer.
// It stops the connection if the peer does not come to an end.
func (r *Reader) Drain() error {
	total := 0
	for !r.done {
		f, err := r.Next()
		if err != nil {
			return err
		}
		if total += len(f.Payload); total > maxDrain {
			r.conn.Stop(errDrained)
		}
	}
	return nil
}

// writeBuffers is how many payloads a Writer holds.
const writeBuffers = 3

// Writer sends data frames in a goroutine of its own, so that the next payload can be prepared meanwhile.
type Writer struct {
	free chan []byte
	full chan []byte
	done chan struct{}
	err  error // valid after done
}

// WriteAhead starts a Writer of data frames of type typ. Close must be called.
func (c *Conn) WriteAhead(typ uint8) *Writer {
	w := &Writer{free: make(chan []byte, writeBuffers), full: make(chan []byte, writeBuffers), done: make(chan struct{})}
	for range writeBuffers {
		w.free <- make([]byte, 0, MaxPayload)
	}
	go func() {
		defer close(w.done)
		for p := range w.full {
			if w.err = c.WriteData(typ, p); w.err != nil {
				return
			}
			w.free <- p[:0]
		}
	}()
	return w
}

// Done is closed when the writer has ended, be it by an error.
func (w *Writer) Done() <-chan struct{} { return w.done }

// Buffer returns an empty payload buffer of capacity MaxPayload, or the error that ended the writer.
func (w *Writer) Buffer() ([]byte, error) {
	select {
	case b := <-w.free:
		return b, nil
	case <-w.done:
		return nil, w.err
	}
}

// Send queues a payload that Buffer returned.
func (w *Writer) Send(p []byte) error {
	select {
	case w.full <- p:
		return nil
	case <-w.done:
		return w.err
	}
}

// Close waits until everything queued is written. It is called once, after the last Send.
func (w *Writer) Close() error {
	close(w.full)
	<-w.done
	return w.err
}

// Reply is an answer that may come at any time while something is sent.
type Reply struct {
	conn  *Conn
	done  chan struct{}
	frame Frame
	err   error
}

// Await reads, in a goroutine of its own, until a frame of type typ arrives. Optional frames are skipped, others are an error. Nothing
// else may read from the connection until the reply is done.
func (c *Conn) Await(typ uint8) *Reply {
	r := &Reply{conn: c, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for {
			r.frame, r.err = c.Read()
			if r.err != nil {
				c.Stop(r.err) // a writer that waits should not go on
				return
			}
			if r.frame.Type == typ {
				return
			}
			if !r.frame.Optional() {
				r.err = Unexpected(r.frame)
				return
			}
		}
	}()
	return r
}

// Done is closed when the reply or an error has come.
func (r *Reply) Done() <-chan struct{} { return r.done }

// JSON waits for the reply and decodes it into v.
func (r *Reply) JSON(v any) error {
	<-r.done
	if r.err != nil {
		return r.err
	}
	return r.frame.JSON(v)
}

// WithinGrace waits a moment for the reply, for the case that a write failed because the peer has just said why and gone. It reports
// whether the reply came.
func (r *Reply) WithinGrace(ctx context.Context) bool {
	const grace = 2 * time.Second
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-r.done:
		return r.err == nil
	case <-ctx.Done():
	case <-timer.C:
	}
	return false
}

// Unexpected is the error for a mandatory frame that does not belong where it came.
func Unexpected(f Frame) error { return fmt.Errorf("unexpected frame of type %#02x", f.Type) }
