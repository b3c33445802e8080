package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	slice     = 64 << 10 // how much is handed to the connection below at a time
	firstSize = 16 << 10 // the header travels with this much payload, so that it needs no TLS record of its own
)

// Conn carries frames over a connection. One goroutine may read while any number write; each frame is written as a whole.
// After any error other than a failed decode of a document the connection is unusable and should be closed.
type Conn struct {
	nc    net.Conn
	below *buffered    // nil if there is none
	idle  atomic.Int64 // a duration
	heard atomic.Int64 // when something was last read, Unix nanoseconds
	meter Meter

	stopOnce sync.Once
	stopped  chan struct{}
	cause    error // why stopped; written before stopped is closed

	wmu     sync.Mutex
	first   []byte
	limiter *Limiter
	pack    packer
	wdead   deadline

	head   [headerSize]byte
	wire   []byte // compressed payload as read
	buf    []byte // payload of Read
	unpack unpacker
	rdead  deadline
}

// NewConn starts frames on nc, which it owns from now on.
func NewConn(nc net.Conn) *Conn {
	c := &Conn{nc: nc, below: findBuffered(nc), stopped: make(chan struct{}), first: make([]byte, firstSize)}
	c.rdead.set, c.wdead.set = nc.SetReadDeadline, nc.SetWriteDeadline
	if c.below != nil {
		c.wdead.set = c.below.SetWriteDeadline
		c.below.owner.Store(c)
	}
	return c
}

// NetConn returns the connection below.
func (c *Conn) NetConn() net.Conn { return c.nc }

// Meter returns the connection's byte counters.
func (c *Conn) Meter() *Meter { return &c.meter }

// SetIdle sets how long the peer may be silent while something is read from it, and may take nothing and say nothing while something is
// written to it. Beyond that the operation fails with [os.ErrDeadlineExceeded]. 0, the default, waits forever. Transfers of trees and pages
// ping the peer meanwhile; at other times that is up to the user of the connection. Without a [Buffered] connection below TLS the peer must
// take 64 KiB in that time.
func (c *Conn) SetIdle(d time.Duration) { c.idle.Store(int64(d)) }

// SetLimiter holds what is written to l's rate; nil removes the limit.
func (c *Conn) SetLimiter(l *Limiter) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.limiter = l
	c.pack.linkLimit(l)
}

// SetCompression says how data frames are compressed; the default is CompressAuto.
func (c *Conn) SetCompression(mode Compression) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.pack.mode = mode
}

// Close closes the connection below. Reads and writes that wait return.
func (c *Conn) Close() error {
	c.Stop(net.ErrClosed)
	if err := c.nc.Close(); err != nil {
		return fmt.Errorf("close %s: %w", c, err)
	}
	return nil
}

// Stop makes every present and future read and write fail at once with cause. The first cause stays.
func (c *Conn) Stop(cause error) {
	c.stopOnce.Do(func() {
		c.cause = cause
		close(c.stopped)
	})
	_ = c.nc.SetDeadline(time.Unix(1, 0)) // fails only on a closed connection, where nothing waits
}

// Watch stops the connection when ctx ends, until the returned function is called. That function reports the context's error if it did.
func (c *Conn) Watch(ctx context.Context) (release func() error) {
	stop := context.AfterFunc(ctx, func() { c.Stop(context.Cause(ctx)) })
	return func() error {
		if stop() {
			return nil
		}
		return context.Cause(ctx)
	}
}

// String names the peer as error texts do.
func (c *Conn) String() string {
	if a := c.nc.RemoteAddr(); a != nil {
		return "peer " + a.String()
	}
	return "peer"
}

// heardLately says whether the peer sent anything within the idle time.
func (c *Conn) heardLately() bool {
	return time.Now().UnixNano()-c.heard.Load() < c.idle.Load()
}

// pingEvery is how often a peer is pinged during a transfer when nothing else is sent to it.
const pingEvery = 500 * time.Millisecond

// Pinging starts the pings of a transfer, until stop is called: one every half second, or four in an idle time shorter than two seconds.
// The side that mostly listens needs them as much as the other.
func (c *Conn) Pinging() (stop func()) {
	every := pingEvery
	if idle := time.Duration(c.idle.Load()); idle > 0 {
		every = min(every, idle/4)
	}
	return c.KeepAlive(every)
}

// Ping sends an empty frame that resets the peer's idle clock.
func (c *Conn) Ping() error { return c.write(TypePing, 0, nil) }

// KeepAlive sends a ping whenever nothing was written for about every, until stop is called. Errors are left to the next write.
func (c *Conn) KeepAlive(every time.Duration) (stop func()) {
	done := make(chan struct{})
	go func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		last := c.meter.wireSent.Load()
		for {
			select {
			case <-done:
				return
			case <-c.stopped:
				return
			case <-ticker.C:
			}
			if now := c.meter.wireSent.Load(); now != last {
				last = now
			} else if c.Ping() != nil {
				return
			} else {
				last = c.meter.wireSent.Load()
			}
		}
	}()
	return sync.OnceFunc(func() { close(done) })
}

// WriteJSON sends v as a control frame. It fails with ErrTooLarge if v takes more than MaxPayload bytes.
func (c *Conn) WriteJSON(typ uint8, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame of type %#02x: %w", typ, err)
	}
	return c.write(typ, flagJSON, payload)
}

// WriteData sends p as a data frame, compressed if that pays. It fails with ErrTooLarge if p has more than MaxPayload bytes.
func (c *Conn) WriteData(typ uint8, p []byte) error { return c.write(typ, 0, p) }

func (c *Conn) write(typ, flags uint8, p []byte) error {
	if len(p) > MaxPayload {
		return fmt.Errorf("write frame of type %#02x: %w: %d bytes", typ, ErrTooLarge, len(p))
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	raw, wire := len(p), p
	if flags&flagJSON == 0 {
		if packed, ok := c.pack.pack(p); ok {
			wire, flags = packed, flags|flagZstd
		}
	}
	began := time.Now()
	if err := c.writeWire(header{typ, flags, len(wire)}, wire); err != nil {
		return c.explain("write to", "takes no data", err)
	}
	c.meter.sent(raw, headerSize+len(wire))
	c.pack.wrote(len(wire), time.Since(began), flags&flagZstd != 0)
	return nil
}

// writeWire writes one frame in slices, each within the idle time.
func (c *Conn) writeWire(h header, p []byte) error {
	h.put(c.first)
	n := copy(c.first[headerSize:], p)
	if c.below != nil {
		c.below.cork()
	}
	err := c.writeSlice(c.first[:headerSize+n])
	for p = p[n:]; len(p) > 0 && err == nil; {
		n = min(len(p), c.sliceSize())
		err = c.writeSlice(p[:n])
		p = p[n:]
	}
	if c.below == nil {
		return err
	}
	if err != nil {
		c.below.drop()
		return err
	}
	return c.below.uncork()
}

// sliceSize is how much to write at a time so that a slow limiter still lets the peer see progress.
func (c *Conn) sliceSize() int {
	if c.limiter == nil {
		return slice
	}
	return int(min(max(c.limiter.Rate()/8, 512), slice))
}

func (c *Conn) writeSlice(p []byte) error {
	if c.limiter != nil {
		if err := sleep(c.stopped, c.limiter.reserve(len(p)), func() error { return c.cause }); err != nil {
			return err
		}
	}
	if c.below == nil { // else it does that itself
		if err := c.wdead.push(c); err != nil {
			return err
		}
	}
	if _, err := c.nc.Write(p); err != nil {
		return err
	}
	if c.limiter != nil && c.below != nil {
		if err := c.below.uncork(); err != nil {
			return err
		}
		c.below.cork()
	}
	return nil
}

// Read returns the next frame; pings are skipped. At the orderly end of the connection the error is io.EOF, inside a frame it is
// io.ErrUnexpectedEOF. The payload belongs to the connection and is valid until the next read.
func (c *Conn) Read() (Frame, error) { return c.ReadBuffer(&c.buf) }

// ReadBuffer is Read with the payload in *buf, which grows to at most MaxPayload as needed.
func (c *Conn) ReadBuffer(buf *[]byte) (Frame, error) {
	for {
		f, err := c.readFrame(buf)
		if err != nil {
			return Frame{}, c.explain("read from", "silent", err)
		}
		if f.Type != TypePing {
			return f, nil
		}
	}
}

func (c *Conn) readFrame(buf *[]byte) (Frame, error) {
	if n, err := c.readFull(c.head[:]); err != nil {
		if n == 0 && err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		return Frame{}, err
	}
	h, err := parseHeader(c.head[:])
	if err != nil {
		return Frame{}, err
	}
	target := buf
	if h.flags&flagZstd != 0 {
		target = &c.wire
	}
	*target = grow(*target, h.length)
	if _, err := c.readFull(*target); err != nil {
		return Frame{}, err
	}
	if h.flags&flagZstd != 0 {
		if *buf, err = c.unpack.unpack((*buf)[:0], c.wire); err != nil {
			return Frame{}, err
		}
	}
	c.heard.Store(time.Now().UnixNano())
	c.meter.received(len(*buf), headerSize+h.length)
	return Frame{Type: h.typ, Control: h.flags&flagJSON != 0, Payload: *buf}, nil
}

// grow returns b with length n, reallocated in steps if it has to be.
func grow(b []byte, n int) []byte {
	if cap(b) >= n {
		return b[:n]
	}
	size := 4096
	for size < n {
		size *= 2
	}
	return make([]byte, n, size)
}

// readFull fills p, each read within the idle time.
func (c *Conn) readFull(p []byte) (int, error) {
	got := 0
	for got < len(p) {
		if err := c.rdead.push(c); err != nil {
			return got, err
		}
		n, err := c.nc.Read(p[got:])
		got += n
		if err == io.EOF && got < len(p) {
			return got, io.ErrUnexpectedEOF
		}
		if err != nil && got < len(p) {
			return got, err
		}
	}
	return got, nil
}

// explain adds the peer to an error and says in words when it was silence or a stop.
func (c *Conn) explain(verb, silence string, err error) error {
	select {
	case <-c.stopped:
		return fmt.Errorf("%s %s: %w", verb, c, c.cause)
	default:
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%s: %s for %v: %w", c, silence, time.Duration(c.idle.Load()), os.ErrDeadlineExceeded)
	}
	return fmt.Errorf("%s %s: %w", verb, c, err)
}

// deadline moves one of the two deadlines of a connection along, without a call for every read.
type deadline struct {
	set  func(time.Time) error
	last time.Time
	idle time.Duration
}

// push makes sure that the deadline is at least the idle time away.
func (d *deadline) push(c *Conn) error {
	idle := time.Duration(c.idle.Load())
	if idle == 0 && d.idle == 0 {
		return c.alive()
	}
	now := time.Now()
	if idle == d.idle && now.Sub(d.last) < idle/8 {
		return c.alive()
	}
	d.last, d.idle = now, idle
	var at time.Time
	if idle > 0 {
		at = now.Add(idle + idle/8)
	}
	if err := d.set(at); err != nil {
		return err
	}
	return c.alive()
}

// expire makes the next push set the deadline.
func (d *deadline) expire() { d.last = time.Time{} }

// alive reports the cause if the connection was stopped, and repeats the deadline of Stop, which a push may just have overwritten.
func (c *Conn) alive() error {
	select {
	case <-c.stopped:
		_ = c.nc.SetDeadline(time.Unix(1, 0)) // as in Stop
		return c.cause
	default:
		return nil
	}
}
