package pages

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/zap-migrate/zap/network/stream"
	"golang.org/x/sys/unix"
)

// Frame types of the page channel.
const (
	typeBegin uint8 = 0x60 // JSON begin, source to target
	typeBatch uint8 = 0x61 // batch
	typeEnd   uint8 = 0x62 // JSON end, source to target
	typeDone  uint8 = 0x63 // JSON done, target to source
	typePlan  uint8 = 0x64 // JSON plan, source to target: of a process in the rounds
	typePages uint8 = 0x65 // pages of the rounds
)

// Documents of the page channel.
type (
	begin struct {
		PageSize uint64 `json:"page_size"`
	}
	end struct {
		Error string `json:"error,omitempty"`
	}
	done struct {
		Error string `json:"error,omitempty"`
		Stats
	}
)

// Stats is what went through a page channel.
type Stats struct {
	Images    int   `json:"images"`     // address spaces and shared memory objects
	Pages     int64 `json:"pages"`      // all pages, those of zeros too
	ZeroPages int64 `json:"zero_pages"` // pages of zeros, which were not sent
	Bytes     int64 `json:"bytes"`      // content of the pages that were sent

	KnownPages int64 `json:"known_pages,omitempty"` // pages that the target has had since a round
}

// socketBuffer is how much of CRIU's output the socket pair may hold, in bytes.
const socketBuffer = 4 << 20

// Sender is the source's end of the page channel: a page server for one dump.
type Sender struct {
	conn   *stream.Conn
	ours   int
	theirs *os.File
	shadow *Shadow

	once    sync.Once
	stopped error // why the socket was shut down before CRIU was done

	stats Stats
}

// NewSender makes the socket pair for one dump.
func NewSender() (*Sender, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make page socket: %w", err)
	}
	for _, fd := range pair {
		for _, opt := range []int{unix.SO_SNDBUFFORCE, unix.SO_RCVBUFFORCE} {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, socketBuffer) // without CAP_NET_ADMIN it is smaller
		}
	}
	return &Sender{ours: pair[0], theirs: os.NewFile(uintptr(pair[1]), "page socket")}, nil
}

// File is the end for CRIU, a socket to be named in ps.fd. The caller closes it when CRIU has inherited it: only then does a CRIU that
// dies end Run.
func (s *Sender) File() *os.File { return s.theirs }

// Know names what the target holds already, which is not sent again. It is called before Run.
//
// Of processes that are tracked CRIU is told that there is a parent, so that it sends what has changed only: it needs track_mem and a
// parent's inventory then.
func (s *Sender) Know(shadow *Shadow) { s.shadow = shadow }

// Close releases the sockets. It must not be called while Run runs; a Sender that was never run needs it too.
func (s *Sender) Close() error {
	s.shadow.close()
	if s.ours >= 0 {
		_ = unix.Close(s.ours) // nothing is buffered on this side
		s.ours = -1
	}
	if err := s.theirs.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close page socket: %w", err)
	}
	return nil
}

// Run serves CRIU, whose pages go to conn, until it says that it has sent everything and the target has confirmed that it holds everything; only then is CRIU
// answered. Any failure on this side, on the other (a *stream.RemoteError) or of the connection, and the end of ctx, closes the socket to CRIU
// at once: CRIU's dump fails and the pod runs on. While Run runs nothing else may read from the connection; it remains usable unless the
// error came from it.
func (s *Sender) Run(ctx context.Context, conn *stream.Conn) (Stats, error) {
	s.conn = conn
	defer s.conn.Pinging()()
	release := s.conn.Watch(ctx)
	err := s.run(ctx)
	s.Abort(err)
	if stopped := release(); stopped != nil && err != nil {
		err = stopped
	}
	if err != nil {
		return s.stats, fmt.Errorf("send pages: %w", err)
	}
	return s.stats, nil
}

// Abort shuts the socket to CRIU down: a read of ours and a write of CRIU's return at once, and Run ends. Who can't begin Run has to call it, for CRIU waits for
// answers without bounds, with the pod stopped, even once its dump has failed.
func (s *Sender) Abort(cause error) {
	s.once.Do(func() {
		s.stopped = cause
		_ = unix.Shutdown(s.ours, unix.SHUT_RDWR) // fails only if CRIU has closed its end
	})
}

func (s *Sender) run(ctx context.Context) error {
	if err := s.conn.WriteJSON(typeBegin, begin{pageSize}); err != nil {
		return err
	}
	reply, out := s.conn.Await(typeDone), s.conn.WriteAhead(typeBatch)
	finished := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		select {
		case <-reply.Done():
			s.Abort(errRefused)
		case <-out.Done():
			s.Abort(errRefused)
		case <-ctx.Done():
			s.Abort(context.Cause(ctx))
		case <-finished:
		}
	})
	served := s.serve(out)
	close(finished)
	watcher.Wait()
	wrote := out.Close()
	if wrote != nil {
		if reply.WithinGrace(ctx) {
			wrote = errors.Join(verdict(s.conn, reply), wrote)
		}
		return wrote
	}
	var e end
	if served != nil {
		e.Error = served.Error()
	}
	if err := s.conn.WriteJSON(typeEnd, e); err != nil {
		return err
	}
	said := verdict(s.conn, reply)
	if served != nil && !errors.Is(served, errRefused) {
		return served
	}
	if err := errors.Join(said, s.answer(said)); err != nil {
		return err
	}
	return nil
}

// errRefused ends serving when the target has already answered or the connection broke.
var errRefused = errors.New("target stopped the transfer")

// verdict waits for the target's answer.
func verdict(c *stream.Conn, reply *stream.Reply) error {
	var d done
	if err := reply.JSON(&d); err != nil {
		return err
	}
	if d.Error != "" {
		return &stream.RemoteError{Peer: c.String(), Text: d.Error}
	}
	return nil
}

// answer tells CRIU whether everything has arrived. Of a failure CRIU is told only as far as it can be.
func (s *Sender) answer(verdict error) error {
	var status [4]byte
	if verdict != nil {
		binary.LittleEndian.PutUint32(status[:], 1<<32-1)
		_ = unix.Send(s.ours, status[:], unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		return nil
	}
	if err := unix.Send(s.ours, status[:], unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("answer criu: %w", err)
	}
	return nil
}

// serve reads what CRIU writes and sends it in batches until CRIU is done.
func (s *Sender) serve(out *stream.Writer) error {
	buf, err := out.Buffer()
	if err != nil {
		return errRefused
	}
	t := batch{buf: buf, marks: make([]mark, 0, maxMarks), shadow: s.shadow}
	defer func() { s.stats = t.stats }()
	for {
		closed, err := s.fill(&t)
		if err != nil {
			return err
		}
		next, err := out.Buffer()
		if err != nil {
			return errRefused
		}
		next = append(next, t.buf[t.done:]...) // a piece of a page
		if err := out.Send(appendMarks(t.buf[:t.done], t.marks)); err != nil {
			return errRefused
		}
		if closed {
			return nil
		}
		t.reset(next)
	}
}

// fill reads until the batch is full or CRIU is done.
func (s *Sender) fill(t *batch) (closed bool, err error) {
	for {
		c, err := t.next()
		if err != nil {
			return false, err
		}
		if c != nil && c.op != criuOpen2 {
			return true, nil
		}
		if c != nil {
			if err := unix.Send(s.ours, []byte{t.parent()}, unix.MSG_NOSIGNAL); err != nil {
				return false, fmt.Errorf("answer criu: %w", err)
			}
			continue
		}
		if t.full() {
			return false, nil
		}
		n, err := s.read(t.buf[len(t.buf):batchRoom])
		if err != nil {
			return false, err
		}
		t.buf = t.buf[:len(t.buf)+n]
	}
}

// read reads what CRIU wrote.
func (s *Sender) read(p []byte) (int, error) {
	for {
		n, err := unix.Read(s.ours, p)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, fmt.Errorf("read from criu: %w", err)
		case n == 0:
			s.Abort(errClosed)
			return 0, s.stopped
		}
		return n, nil
	}
}

// errClosed is met when CRIU dies, or the dump fails, without an orderly end.
var errClosed = errors.New("criu closed the page channel before its end")
