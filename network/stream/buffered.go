package stream

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
)

// Sizes of the buffers below TLS: a record is 16 KiB, a system call should move many.
const (
	bufferedRead  = 256 << 10
	bufferedWrite = 256 << 10
)

// Buffered wraps the connection below TLS so that many records share a system call. What is read is read ahead into a large buffer. What
// is written passes straight through, except while a [Conn] on top is inside a frame: then records are collected and leave at the frame's
// end, so that nothing is ever held back for want of a flush.
func Buffered(inner net.Conn) net.Conn {
	return &buffered{Conn: inner, in: make([]byte, bufferedRead)}
}

// buffered is the connection that Buffered returns.
type buffered struct {
	net.Conn

	in         []byte
	start, end int

	mu     sync.Mutex
	corked bool
	out    []byte
	owner  atomic.Pointer[Conn] // whose idle time counts; nil: nobody's
}

// NetConn returns the connection below, as tls.Conn's method of that name does.
func (b *buffered) NetConn() net.Conn { return b.Conn }

// Read implements net.Conn; like every reader here it is for one goroutine at a time.
func (b *buffered) Read(p []byte) (int, error) {
	if b.start == b.end {
		if len(p) >= len(b.in) {
			return b.Conn.Read(p)
		}
		n, err := b.Conn.Read(b.in)
		b.start, b.end = 0, n
		if n == 0 {
			return 0, err
		}
	}
	n := copy(p, b.in[b.start:b.end])
	b.start += n
	return n, nil
}

// Write implements net.Conn.
func (b *buffered) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.corked {
		return b.write(p)
	}
	if len(b.out)+len(p) > bufferedWrite {
		if err := b.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > bufferedWrite {
		return b.write(p)
	}
	b.out = append(b.out, p...)
	return len(p), nil
}

// cork makes writes collect.
func (b *buffered) cork() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.out == nil {
		b.out = make([]byte, 0, bufferedWrite)
	}
	b.corked = true
}

// uncork writes out what was collected and lets writes pass again.
func (b *buffered) uncork() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.corked = false
	return b.flush()
}

// drop forgets what was collected: the connection is broken.
func (b *buffered) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.corked, b.out = false, b.out[:0]
}

// flush writes out what was collected. The caller holds the lock.
func (b *buffered) flush() error {
	if len(b.out) == 0 {
		return nil
	}
	_, err := b.write(b.out)
	b.out = b.out[:0]
	return err
}

// write is the inner connection's Write under the owner's idle time. Below TLS a write that ran out of time can be taken up again where it
// stopped, so it goes on as long as the peer takes a byte now and then, or at least says that it lives.
func (b *buffered) write(p []byte) (int, error) {
	owner := b.owner.Load()
	if owner == nil {
		return b.Conn.Write(p)
	}
	done := 0
	for {
		if err := owner.wdead.push(owner); err != nil {
			return done, err
		}
		n, err := b.Conn.Write(p[done:])
		done += n
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 && !owner.heardLately() {
			return done, err
		}
		owner.wdead.expire()
	}
}

// findBuffered looks for a Buffered connection below c.
func findBuffered(c net.Conn) *buffered {
	for {
		if b, ok := c.(*buffered); ok {
			return b
		}
		u, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = u.NetConn()
	}
}
