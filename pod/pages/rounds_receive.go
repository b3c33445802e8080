package pages

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/network/stream"
)

// Parent is the directory of CRIU's images in which it looks for pages that a pagemap says its parent has.
const Parent = "parent"

// ReceiveRounds takes what Rounds.Run sends and writes it to dir, which is called Parent in the directory that Receive is given later: a
// pagemap of each process, and a sparse pages image in which every page of its address space has its place. As for Receive, the sender is
// told of a failure at once.
func ReceiveRounds(ctx context.Context, c *stream.Conn, dir *os.File, limits Limits) error {
	defer c.Pinging()()
	release := c.Watch(ctx)
	r := &roundsReceiver{dir: dir, limits: limits.withDefaults(), images: map[uint32]*roundImage{}}
	defer r.close()
	err := r.receive(c)
	if stopped := release(); stopped != nil && err != nil {
		err = stopped
	}
	if err != nil {
		return fmt.Errorf("receive memory ahead: %w", err)
	}
	return nil
}

// roundsReceiver is one run of ReceiveRounds.
type roundsReceiver struct {
	dir    *os.File
	limits Limits
	images map[uint32]*roundImage
	spans  int64
	pages  uint64 // of all plans
}

// roundImage is the memory of one process.
type roundImage struct {
	spans  []span
	before []uint64 // bytes of the spans before each
	file   int
}

func (r *roundsReceiver) close() {
	for _, m := range r.images {
		_ = unix.Close(m.file)
	}
}

func (r *roundsReceiver) receive(c *stream.Conn) error {
	in := c.ReadAhead(typeEnd)
	defer in.Close()
	return answer(c, in, r.take(in), Stats{})
}

// take applies frames until the sender's end.
func (r *roundsReceiver) take(in *stream.Reader) error {
	for begun := false; ; {
		f, err := in.Next()
		if err != nil {
			return err
		}
		switch {
		case f.Type == typeBegin && !begun:
			begun = true
			err = checkBegin(f)
		case f.Type == typePlan && begun:
			err = r.plan(f)
		case f.Type == typePages && begun && !f.Control:
			err = r.apply(f.Payload)
		case f.Type == typeEnd && begun:
			return checkEnd(f)
		case !f.Optional():
			err = stream.Unexpected(f)
		}
		if err != nil {
			return err
		}
	}
}

// plan makes the images of a process.
func (r *roundsReceiver) plan(f stream.Frame) error {
	var p plan
	if err := f.JSON(&p); err != nil {
		return err
	}
	if r.images[p.Image] != nil || len(r.images) >= r.limits.MaxImages || len(p.Spans) == 0 {
		return fmt.Errorf("%w: plan of image %d with %d spans", errProtocol, p.Image, len(p.Spans))
	}
	m := &roundImage{}
	last, offset := uint64(0), uint64(0)
	for _, pair := range p.Spans {
		s := span{uint64(pair[0]), uint64(pair[1])}
		if s.from < last || s.to <= s.from || s.to > 1<<63 || s.from%pageSize != 0 || s.to%pageSize != 0 {
			return fmt.Errorf("%w: memory from %#x to %#x", errProtocol, s.from, s.to)
		}
		if r.pages += s.pages(); r.pages > uint64(r.limits.MaxBytes)/pageSize {
			return fmt.Errorf("%w: address spaces of more than %d bytes", ErrLimit, r.limits.MaxBytes)
		}
		m.spans, m.before = append(m.spans, s), append(m.before, offset)
		last, offset = s.to, offset+s.to-s.from
	}
	if r.spans += int64(len(m.spans)); r.spans > r.limits.MaxEntries {
		return fmt.Errorf("%w: more than %d runs of pages", ErrLimit, r.limits.MaxEntries)
	}
	return r.create(p.Image, m)
}

// create writes the pagemap, which says of every page that it is there: only those that are will be asked for.
func (r *roundsReceiver) create(image uint32, m *roundImage) error {
	files := images{dir: r.dir, last: uint32(len(r.images))}
	if err := files.open(ofProcess(image)); err != nil {
		return err
	}
	for _, s := range m.spans {
		files.run = run{address: s.from, pages: s.pages(), flags: flagPresent}
		if err := files.record(); err != nil {
			return errors.Join(err, files.abandon())
		}
	}
	if err := files.writeRecords(); err != nil {
		return errors.Join(err, files.abandon())
	}
	_ = unix.Close(files.pagemap) // everything is written
	m.file = files.file
	r.images[image] = m
	return nil
}

// apply writes the pages of a frame to their places.
func (r *roundsReceiver) apply(payload []byte) error {
	if len(payload) < markCount {
		return fmt.Errorf("%w: frame of %d bytes", errProtocol, len(payload))
	}
	body := len(payload) - markCount
	count := int(binary.BigEndian.Uint32(payload[body:]))
	if count > maxMarks || count*roundMark > body {
		return fmt.Errorf("%w: frame with %d runs", errProtocol, count)
	}
	body -= count * roundMark
	content := payload[:body]
	for marks := payload[body : body+count*roundMark]; len(marks) > 0; marks = marks[roundMark:] {
		image, address := binary.BigEndian.Uint32(marks), binary.BigEndian.Uint64(marks[4:])
		n := uint64(binary.BigEndian.Uint32(marks[12:])) * pageSize
		m := r.images[image]
		if m == nil || n == 0 || n > uint64(len(content)) || address > 1<<63 {
			return fmt.Errorf("%w: %d bytes of image %d at %#x", errProtocol, n, image, address)
		}
		offset, ok := inside(m.spans, m.before, span{address, address + n})
		if !ok {
			return fmt.Errorf("%w: %d bytes at %#x, where image %d has nothing", errProtocol, n, address, image)
		}
		if err := writeAt(m.file, content[:n], int64(offset)); err != nil {
			return fmt.Errorf("write pages of image %d: %w", image, err)
		}
		content = content[n:]
	}
	if len(content) > 0 {
		return fmt.Errorf("%w: %d bytes of pages too many", errProtocol, len(content))
	}
	return nil
}

func writeAt(fd int, p []byte, offset int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, offset)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		n = max(n, 0)
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}
