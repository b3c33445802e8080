package pages

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/network/stream"
)

// plan tells the target of a process whose pages come in the rounds: what its address space is. It has only pages of these spans.
type plan struct {
	Image uint32     `json:"image"`
	Spans [][2]int64 `json:"spans"` // first byte and the one after the last, sorted
}

const (
	// maxSpans bounds one plan, which has to fit into a frame. What lies in further mappings goes over with the dump.
	maxSpans = 16 << 10
	// maxReserved bounds the address spaces of all plans, in pages: some programs map terabytes that they never touch. It is below what a
	// target takes (Limits), and what lies beyond goes over with the dump.
	maxReserved = (512 << 30) / 4096
	// roundMark is the size of one entry at the end of a frame of pages: u32 image, u64 address, u32 pages (big endian).
	roundMark = 16
	maxPieces = 1024 // of one system call, IOV_MAX
)

// Process is one whose memory goes over while it runs.
type Process struct {
	PID   int
	Image uint32 // CRIU names its images so: the process's id in the pod
}

// Round is what one pass over the memory of running processes found and sent.
type Round struct {
	Pages   int64         `json:"pages"` // that were looked at
	Clean   int64         `json:"clean"` // that were not, because the kernel says that nobody has written to them since the round before
	Sent    int64         `json:"sent"`  // pages of the first that the target did not have so
	Elapsed time.Duration `json:"-"`
	// Changed estimates how many pages have changed since they were sent, by a look at one in sampleStep; -1 where the kernel tracks that and
	// the next round has little to do anyway.
	Changed int64 `json:"changed"`
}

// sampleStep is of how many pages one is looked at for an estimate.
const sampleStep = 16

// Bytes is the memory that the round sent.
func (r *Round) Bytes() int64 { return r.Sent * int64(pageSize) }

// Rounds sends the private memory of processes to a target while they run.
type Rounds struct {
	// Processes lists whose memory goes over; it is called for each round.
	Processes func() ([]Process, error)
	// Again is called with each round and says whether there shall be another. Its error ends the rounds.
	Again func(Round) (bool, error)
	// Tracked says that the kernel can tell what a process has written to (soft-dirty bits). A later round looks at nothing else then, and the
	// dump can rely on it, see [Shadow.Tracked].
	Tracked bool
	// Hold is called when Tracked, and stops the processes until release is called: between a look at what was written to and the
	// start of another period nothing must be.
	Hold func(context.Context) (release func() error, err error)

	conn     *stream.Conn
	shadow   *Shadow
	out      *stream.Writer
	planned  map[uint32][]span
	reserved uint64 // pages of all of them
	now      Round
	chunk    []byte // of a page map
	window   []byte // for samples
	pieces   []unix.RemoteIovec
	size     int // of the pieces
	payload  []byte
	marks    []byte

	sampling bool  // nothing is sent
	changed  int64 // pages of the sample
}

// Run sends rounds over conn until Again says no. It returns what the target holds then, for [Sender.Know]. The conversation is like
// that of a Sender: a failure of the target's, a *stream.RemoteError, ends it.
func (r *Rounds) Run(ctx context.Context, conn *stream.Conn) (*Shadow, error) {
	r.conn, r.shadow, r.planned = conn, newShadow(), map[uint32][]span{}
	r.chunk, r.window = make([]byte, pagemapChunk*pagemapEntry), make([]byte, window)
	defer conn.Pinging()()
	release := conn.Watch(ctx)
	err := r.converse(ctx)
	if stopped := release(); stopped != nil && err != nil {
		err = stopped
	}
	if err != nil {
		r.shadow.close()
		return nil, fmt.Errorf("send memory ahead: %w", err)
	}
	return r.shadow, nil
}

func (r *Rounds) converse(ctx context.Context) error {
	if err := r.conn.WriteJSON(typeBegin, begin{pageSize}); err != nil {
		return err
	}
	reply := r.conn.Await(typeDone)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watcher sync.WaitGroup
	watcher.Go(func() {
		select {
		case <-reply.Done():
			cancel(errRefused)
		case <-ctx.Done():
		}
	})
	failed := r.all(ctx)
	cancel(nil)
	watcher.Wait()
	var e end
	if failed != nil {
		e.Error = failed.Error()
	}
	if err := r.conn.WriteJSON(typeEnd, e); err != nil {
		if !reply.WithinGrace(context.WithoutCancel(ctx)) {
			return err
		}
	}
	said := verdict(r.conn, reply)
	if failed != nil && !errors.Is(failed, errRefused) {
		return failed
	}
	return said
}

// all makes the rounds.
func (r *Rounds) all(ctx context.Context) error {
	for first := true; ; first = false {
		began := time.Now()
		r.now = Round{}
		if err := r.round(ctx, first); err != nil {
			return err
		}
		r.now.Elapsed = time.Since(began)
		if err := r.sample(ctx); err != nil {
			return err
		}
		again, err := r.Again(r.now)
		if err != nil || !again {
			return err
		}
	}
}

func (r *Rounds) round(ctx context.Context, first bool) (err error) {
	r.out = r.conn.WriteAhead(typePages)
	defer func() { err = errors.Join(err, r.out.Close()) }()
	if r.payload, err = r.out.Buffer(); err != nil {
		return err
	}
	if err := r.visit(ctx, first); err != nil {
		return err
	}
	return r.send()
}

// visit looks at all processes.
func (r *Rounds) visit(ctx context.Context, first bool) error {
	all, err := r.held(ctx, first)
	if err != nil {
		return err
	}
	for _, l := range all {
		if err := r.process(ctx, l); err != nil {
			return err
		}
	}
	return nil
}

// sample estimates what has changed since the round.
func (r *Rounds) sample(ctx context.Context) error {
	if r.Tracked {
		r.now.Changed = -1
		return nil
	}
	r.sampling, r.changed = true, 0
	pages := r.now.Pages
	defer func() {
		r.sampling, r.now.Pages, r.now.Changed = false, pages, r.changed*sampleStep
	}()
	return r.visit(ctx, false)
}

// process sends what was found of one process.
func (r *Rounds) process(ctx context.Context, l *look) error {
	if l.fresh {
		if err := r.begin(l); err != nil {
			return err
		}
	}
	r.now.Clean += l.clean
	for _, s := range l.runs {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := r.span(l, s); err != nil {
			return err
		}
	}
	return r.flush(l)
}

// begin tells the target of a process.
func (r *Rounds) begin(l *look) error {
	doc := plan{Image: l.Image}
	for _, s := range l.spans {
		doc.Spans = append(doc.Spans, [2]int64{int64(s.from), int64(s.to)})
	}
	return r.conn.WriteJSON(typePlan, doc)
}

// span collects pages until a window is full.
func (r *Rounds) span(l *look, s span) error {
	stride := uint64(0) // to be skipped after each piece
	if r.sampling {
		stride = (sampleStep - 1) * pageSize
		s.from += (sampleStep - s.from/pageSize%sampleStep) % sampleStep * pageSize
	}
	for s.from < s.to {
		n := min(s.to-s.from, uint64(window-r.size))
		if r.sampling {
			n = pageSize
		}
		r.pieces = append(r.pieces, unix.RemoteIovec{Base: uintptr(s.from), Len: int(n)})
		r.size += int(n)
		s.from += n + stride
		if r.size < window && len(r.pieces) < maxPieces {
			continue
		}
		if err := r.flush(l); err != nil {
			return err
		}
	}
	return nil
}

// flush reads the pages that were collected and keeps what is news to the target.
func (r *Rounds) flush(l *look) error {
	pieces := r.pieces
	for len(pieces) > 0 {
		if len(r.payload) >= window || len(r.marks) > (maxMarks-maxPieces)*roundMark {
			if err := r.send(); err != nil {
				return err
			}
		}
		room := r.window
		if !r.sampling {
			room = r.payload[len(r.payload):cap(r.payload)]
		}
		got, err := readMemory(l.PID, room[:r.size], pieces)
		if err != nil {
			return err
		}
		r.keep(l, pieces, room[:got])
		// It stops at a page that is no more: what lies behind that in the same piece is left to the dump.
		for left := got; len(pieces) > 0 && left >= 0; pieces = pieces[1:] {
			r.size -= pieces[0].Len
			left -= pieces[0].Len
			if end := uint64(pieces[0].Base) + uint64(pieces[0].Len); left < 0 && !r.sampling {
				l.known.lose(span{end - uint64(-left), end})
			}
		}
	}
	r.pieces, r.size = r.pieces[:0], 0
	return nil
}

// keep takes from memory, which lies at the pieces, what the target does not have. In a round it was read to behind the payload.
func (r *Rounds) keep(l *look, pieces []unix.RemoteIovec, memory []byte) {
	for _, p := range pieces {
		address := uint64(p.Base)
		for left := p.Len; left > 0 && len(memory) > 0; left -= int(pageSize) {
			page := memory[:pageSize]
			r.now.Pages++
			switch {
			case r.sampling:
				if !isZero(page) && !l.known.has(address, page) {
					r.changed++
				}
			case isZero(page):
				l.known.blank(address)
			case l.known.renew(address, page):
				r.add(l.Image, address, page)
			}
			memory, address = memory[pageSize:], address+pageSize
		}
	}
}

// add queues a page. Often it is where it should be.
func (r *Rounds) add(image uint32, address uint64, page []byte) {
	r.now.Sent++
	end := len(r.payload)
	r.payload = r.payload[:end+len(page)]
	if &r.payload[end] != &page[0] {
		copy(r.payload[end:], page)
	}
	if k := len(r.marks); k > 0 {
		last := r.marks[k-roundMark:]
		pages := binary.BigEndian.Uint32(last[12:])
		if binary.BigEndian.Uint32(last) == image && binary.BigEndian.Uint64(last[4:])+uint64(pages)*pageSize == address {
			binary.BigEndian.PutUint32(last[12:], pages+1)
			return
		}
	}
	r.marks = binary.BigEndian.AppendUint32(r.marks, image)
	r.marks = binary.BigEndian.AppendUint64(r.marks, address)
	r.marks = binary.BigEndian.AppendUint32(r.marks, 1)
}

// send sends what is queued.
func (r *Rounds) send() error {
	if len(r.marks) == 0 {
		return nil
	}
	r.payload = append(r.payload, r.marks...)
	payload := binary.BigEndian.AppendUint32(r.payload, uint32(len(r.marks)/roundMark))
	r.marks = r.marks[:0]
	if err := r.out.Send(payload); err != nil {
		return err
	}
	var err error
	r.payload, err = r.out.Buffer()
	return err
}

// inside says whether a run of pages lies in one of the sorted spans, and how many bytes of spans lie before it.
func inside(spans []span, before []uint64, s span) (offset uint64, ok bool) {
	i, found := slices.BinarySearchFunc(spans, s.from, func(x span, from uint64) int {
		switch {
		case from < x.from:
			return 1
		case from >= x.to:
			return -1
		}
		return 0
	})
	if !found || s.to > spans[i].to {
		return 0, false
	}
	return before[i] + s.from - spans[i].from, true
}
