package pages

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/network/stream"
)

// Limits bounds what Receive takes from a peer. A zero field means its default.
type Limits struct {
	MaxBytes   int64 // of memory, zero pages included: 1 TiB
	MaxImages  int   // address spaces and shared memory objects: 65536
	MaxEntries int64 // runs of pages: 256 Mi
}

func (l Limits) withDefaults() Limits {
	if l.MaxBytes == 0 {
		l.MaxBytes = 1 << 40
	}
	if l.MaxImages == 0 {
		l.MaxImages = 1 << 16
	}
	if l.MaxEntries == 0 {
		l.MaxEntries = 256 << 20
	}
	return l
}

// ErrLimit is met by a dump that is larger than Limits allow.
var ErrLimit = errors.New("memory is over its limit")

// Receive takes what one Sender sends and writes it to dir as the pagemap-*.img and pages-*.img that criu restore reads. None of these
// may exist there before. When it returns without an error all memory of the dump is in dir. On a failure, a full tmpfs say, the sender
// is told why at once and fails; the connection remains usable unless the error came from it, and what was written so far is left.
//
// What [ReceiveRounds] has put into the directory [Parent] of dir is not sent again.
//
// While Receive runs, nothing else may read from the connection.
func Receive(ctx context.Context, c *stream.Conn, dir *os.File, limits Limits) (Stats, error) {
	defer c.Pinging()()
	release := c.Watch(ctx)
	r := &receiver{images: images{dir: dir}, limits: limits.withDefaults()}
	r.parent = unix.Fstatat(int(dir.Fd()), Parent, new(unix.Stat_t), unix.AT_SYMLINK_NOFOLLOW) == nil
	err := r.receive(c)
	if stopped := release(); stopped != nil && err != nil {
		err = stopped
	}
	if err != nil {
		return r.stats, fmt.Errorf("receive pages: %w", err)
	}
	return r.stats, nil
}

// receiver is one run of Receive.
type receiver struct {
	images images
	limits Limits
	stats  Stats

	left    uint64 // bytes of pages that are still to come for the last command
	entries int64
	closed  bool // CRIU's last command has come
	parent  bool // rounds were received
	marks   []mark
}

// receive runs the conversation: everything up to the sender's end, then the answer; after a failure the answer first.
func (r *receiver) receive(c *stream.Conn) error {
	in := c.ReadAhead(typeEnd)
	defer in.Close()
	err := r.take(in)
	if err == nil {
		err = r.images.finish()
	}
	if err != nil {
		_ = r.images.abandon() // that they are incomplete is known
	}
	return answer(c, in, err, r.stats)
}

// answer tells the sender how it ended here, and after a failure skips what it still says.
func answer(c *stream.Conn, in *stream.Reader, err error, stats Stats) error {
	if in.Broken() {
		return err
	}
	d := done{Stats: stats}
	if err != nil {
		d.Error = err.Error()
	}
	if told := c.WriteJSON(typeDone, d); told != nil {
		return errors.Join(err, told)
	}
	if drained := in.Drain(); drained != nil && err != nil {
		return fmt.Errorf("%w (and then: %w)", err, drained)
	}
	return err
}

// take applies frames until the sender's end.
func (r *receiver) take(in *stream.Reader) error {
	begun := false
	for {
		f, err := in.Next()
		if err != nil {
			return err
		}
		switch {
		case f.Type == typeBegin && !begun:
			begun = true
			err = checkBegin(f)
		case f.Type == typeBatch && begun && !f.Control:
			err = r.batch(f.Payload)
		case f.Type == typeEnd && begun:
			return r.ended(f)
		case !f.Optional():
			err = stream.Unexpected(f)
		}
		if err != nil {
			return err
		}
	}
}

// checkBegin reads a sender's first document.
func checkBegin(f stream.Frame) error {
	var b begin
	if err := f.JSON(&b); err != nil {
		return err
	}
	if b.PageSize != pageSize {
		return fmt.Errorf("%w: pages of %d bytes, here they have %d", errProtocol, b.PageSize, pageSize)
	}
	return nil
}

// checkEnd reads a sender's last document.
func checkEnd(f stream.Frame) error {
	var e end
	if err := f.JSON(&e); err != nil {
		return err
	}
	if e.Error != "" {
		return fmt.Errorf("sender gave up: %.1000s", e.Error)
	}
	return nil
}

func (r *receiver) ended(f stream.Frame) error {
	if err := checkEnd(f); err != nil {
		return err
	}
	if !r.closed {
		return fmt.Errorf("%w: dump without an end", errProtocol)
	}
	return nil
}

// batch applies one batch: commands and pages, and those that were left out where the marks say.
func (r *receiver) batch(payload []byte) error {
	body, marks, err := cutMarks(payload, r.marks[:0])
	if err != nil {
		return err
	}
	r.marks = marks
	for at := 0; at < len(body) || len(marks) > 0; {
		if len(marks) > 0 && int(marks[0].offset) == at {
			if err := r.leftOut(marks[0]); err != nil {
				return err
			}
			marks = marks[1:]
			continue
		}
		stop := len(body)
		if len(marks) > 0 {
			stop = int(marks[0].offset)
		}
		n, err := r.step(body[at:stop])
		if err != nil {
			return err
		}
		at += n
	}
	return r.images.flush()
}

// step applies the next command or pages of b and returns how long they were.
func (r *receiver) step(b []byte) (int, error) {
	if r.closed {
		return 0, fmt.Errorf("%w: something after the end", errProtocol)
	}
	if r.left > 0 {
		n := int(min(uint64(len(b)), r.left))
		if n%int(pageSize) != 0 {
			return 0, fmt.Errorf("%w: piece of a page", errProtocol)
		}
		r.left -= uint64(n)
		r.stats.Bytes += int64(n)
		return n, r.images.pages(b[:n])
	}
	if len(b) < criuHeader {
		return 0, fmt.Errorf("%w: piece of a command", errProtocol)
	}
	c, err := parseCommand(b)
	if err != nil {
		return 0, err
	}
	return criuHeader, r.command(&c)
}

func (r *receiver) command(c *command) error {
	switch c.op {
	case criuOpen, criuOpen2:
		if r.stats.Images++; r.stats.Images > r.limits.MaxImages {
			return fmt.Errorf("%w: more than %d images", ErrLimit, r.limits.MaxImages)
		}
		return r.images.open(c.destination)
	case criuClose, criuForceClose:
		r.closed = true
		return nil
	}
	if r.entries++; r.entries > r.limits.MaxEntries {
		return fmt.Errorf("%w: more than %d runs of pages", ErrLimit, r.limits.MaxEntries)
	}
	if c.clean() {
		return fmt.Errorf("%w: pages of a parent", errProtocol)
	}
	r.left = c.data()
	r.stats.Pages += int64(r.left / pageSize)
	if most := r.limits.MaxBytes / int64(pageSize); r.stats.Pages > most {
		return fmt.Errorf("%w: more than %d bytes", ErrLimit, r.limits.MaxBytes)
	}
	return r.images.entry(c)
}

// leftOut applies pages that were not sent.
func (r *receiver) leftOut(m mark) error {
	n := uint64(m.pages) * pageSize
	if n > r.left {
		return fmt.Errorf("%w: %d pages left out where %d bytes were to come", errProtocol, m.pages, r.left)
	}
	r.left -= n
	if !m.known {
		r.stats.ZeroPages += int64(m.pages)
		return r.images.skip(n)
	}
	if !r.parent {
		return fmt.Errorf("%w: pages said to be known, but no round was received", errProtocol)
	}
	r.stats.KnownPages += int64(m.pages)
	return r.images.known(n)
}
