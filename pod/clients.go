package pod

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"time"
)

const (
	clientQueue  = 64              // frames that a client may be behind
	clientWithin = 2 * time.Second // for a client to take a frame
)

// client is an attached connection. Frames go to it through a queue, so that one
// that does not read holds up neither the log nor a move, and only for a
// short time the pod.
type client struct {
	conn  net.Conn
	first []byte      // what it gets before anything of the queue
	queue chan []byte // closed by whoever takes the client out of the map
}

// send hands a frame over if there is room.
func (c *client) send(frame []byte) bool {
	select {
	case c.queue <- frame:
		return true
	default:
		return false
	}
}

// frame is the bytes of one frame.
func frame(kind byte, data []byte) []byte {
	b := make([]byte, 5, 5+len(data))
	b[0] = kind
	binary.BigEndian.PutUint32(b[1:], uint32(len(data)))
	return append(b, data...)
}

// attach sends first to conn and then everything that the pod writes from now
// on, or with replay all that it has written, as far as the log has it.
func (s *streams) attach(conn net.Conn, first []byte, replay bool) {
	c := &client{conn: conn, first: first, queue: make(chan []byte, clientQueue)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if replay {
		c.first = append(c.first, s.written()...)
	}
	if s.clients[conn] = c; s.last != nil { // it came a moment too late
		c.send(s.last)
		s.detachLocked(conn)
	}
	go s.feed(c)
}

// written is what the log has, as frames.
func (s *streams) written() []byte {
	var frames []byte
	take := func(kind byte) io.Writer {
		return writerFunc(func(p []byte) (int, error) {
			for part := range slices.Chunk(p, frameMax) {
				frames = append(frames, frame(kind, part)...)
			}
			return len(p), nil
		})
	}
	_ = ReadLog(context.Background(), s.log.path, take(FrameStdout), take(FrameStderr), LogOptions{Tail: -1})
	return frames
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// feed writes a client's queue to its connection, and closes that in the end.
func (s *streams) feed(c *client) {
	defer c.conn.Close()
	give := func(b []byte) bool {
		_ = c.conn.SetWriteDeadline(time.Now().Add(clientWithin))
		_, err := c.conn.Write(b)
		return err == nil
	}
	for part := range slices.Chunk(c.first, frameMax) {
		if !give(part) {
			s.detach(c.conn)
			return
		}
	}
	for frame := range c.queue {
		if !give(frame) {
			s.detach(c.conn)
			return
		}
		select {
		case s.space <- struct{}{}:
		default:
		}
	}
}

// detach lets a client go, when it has got what is in its queue.
func (s *streams) detach(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detachLocked(conn)
}

func (s *streams) detachLocked(conn net.Conn) {
	if c := s.clients[conn]; c != nil {
		delete(s.clients, conn)
		close(c.queue)
	}
}

// sendLocked hands a frame to every client; one that is too far behind is let go.
func (s *streams) sendLocked(kind byte, data []byte) {
	if len(s.clients) == 0 {
		return
	}
	f := frame(kind, data)
	for conn, c := range s.clients {
		if !c.send(f) {
			s.detachLocked(conn)
		}
	}
}

// end sends the last frame to all clients and lets them go.
func (s *streams) end(kind byte, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = frame(kind, data)
	s.sendLocked(kind, data)
	for conn := range s.clients {
		s.detachLocked(conn)
	}
}

// awaitRoom waits while a client is far behind, which holds the pod's output up
// as a slow terminal does; not while the output is being drained.
func (s *streams) awaitRoom() {
	for s.crowded() {
		select {
		case <-s.space:
		case <-time.After(10 * time.Millisecond): // another reader took the word, or draining began
		}
	}
}

func (s *streams) crowded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		if len(c.queue) > clientQueue/2 && !s.hurried {
			return true
		}
	}
	return false
}
