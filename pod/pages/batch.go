package pages

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// A batch is the payload of one data frame: a piece of what CRIU wrote, cut at whole commands and pages, from which pages of zeros, and
// those that the target holds since a round, were taken out; then marks that say where; then their number.
//
//	commands and pages ...  | mark ... | u32 count
//	mark: u32 offset in the first part, u32 pages (big endian, sorted by offset); the highest bit of pages: known since a round
const (
	markSize  = 8
	markCount = 4
	maxMarks  = 2048
	markKnown = 1 << 31

	// window is how much of an image a batch usually holds, at a multiple of its size. A tmpfs with large folios then fills whole ones. And
	// what is received, encrypted and sent is still in the processor's second-level cache at each step: batches of 1 MiB take a
	// quarter more processor time.
	window = 256 << 10
	// batchRoom is how much of a payload commands and pages may take: a window and commands beside it.
	batchRoom = window + 16<<10
)

// mark is a run of pages that was taken out at an offset: zeros, or what is known since a round.
type mark struct {
	offset, pages uint32
	known         bool
}

// appendMarks completes a batch.
func appendMarks(b []byte, marks []mark) []byte {
	for _, m := range marks {
		b = binary.BigEndian.AppendUint32(b, m.offset)
		pages := m.pages
		if m.known {
			pages |= markKnown
		}
		b = binary.BigEndian.AppendUint32(b, pages)
	}
	return binary.BigEndian.AppendUint32(b, uint32(len(marks)))
}

// cutMarks is the inverse of appendMarks. The marks are appended to into.
func cutMarks(b []byte, into []mark) ([]byte, []mark, error) {
	if len(b) < markCount {
		return nil, nil, fmt.Errorf("%w: batch of %d bytes", errProtocol, len(b))
	}
	body := len(b) - markCount
	count := binary.BigEndian.Uint32(b[body:])
	if count > maxMarks || int(count)*markSize > body {
		return nil, nil, fmt.Errorf("%w: batch with %d marks", errProtocol, count)
	}
	body -= int(count) * markSize
	last := uint32(0)
	for i := range int(count) {
		at := b[body+i*markSize:]
		pages := binary.BigEndian.Uint32(at[4:])
		m := mark{binary.BigEndian.Uint32(at), pages &^ markKnown, pages&markKnown != 0}
		if m.offset < last || int(m.offset) > body || m.pages == 0 {
			return nil, nil, fmt.Errorf("%w: mark at %d", errProtocol, m.offset)
		}
		last = m.offset
		into = append(into, m)
	}
	return b[:body], into, nil
}

// batch is a batch in the making. CRIU's stream is read to the end of buf; what was understood of it lies before done.
type batch struct {
	buf   []byte // buf[:done] is complete commands and pages without zeros, buf[done:] has just been read
	done  int
	marks []mark
	cut   bool // it ends with a window

	// What follows is of the stream, not of one batch.
	left    uint64 // bytes of pages that are still to come for the last command
	address uint64 // of the next of them
	image   uint64 // bytes of pages of the present image so far
	absent  uint64 // pages of the last command that CRIU does not send, for nobody has written to them
	shadow  *Shadow
	known   *shadowImage // of the present image, nil if there is none
	trusted bool         // CRIU may leave out what is clean of it
	page    []byte       // one of those that CRIU has left out
	stats   Stats
}

// parent is what CRIU is told about the image that it has begun: whether there is another one, to which this is what has changed.
func (t *batch) parent() byte {
	t.trusted = t.known != nil && t.known.process.same()
	if !t.trusted {
		return 0
	}
	return 1
}

var zeroPage = make([]byte, pageSize)

// isZero says whether a page holds nothing but zeros. It looks at eight bytes of most others.
func isZero(page []byte) bool {
	return binary.LittleEndian.Uint64(page) == 0 && bytes.Equal(page, zeroPage)
}

// full says whether the batch should be sent: a window is full, or there is too little room for a sensible read or for another mark.
func (t *batch) full() bool {
	return t.cut || batchRoom-len(t.buf) < int(pageSize) || len(t.marks) == maxMarks
}

// reset starts the next batch in buf, which holds what the last one left over.
func (t *batch) reset(buf []byte) {
	t.buf, t.done, t.marks, t.cut = buf, 0, t.marks[:0], false
}

// next takes commands and pages from what was read until it meets a command that wants an answer, which it returns, or needs more bytes.
func (t *batch) next() (*command, error) {
	from := t.done
	for len(t.marks) < maxMarks && !t.cut {
		if t.absent > 0 {
			var err error
			if from, err = t.takeAbsent(from); err != nil {
				return nil, err
			}
			continue
		}
		if t.left > 0 {
			n := min(uint64(len(t.buf)-from), t.left) / pageSize
			if n == 0 {
				break
			}
			from = t.takePages(from, min(n, (window-t.image%window)/pageSize))
			t.cut = t.image%window == 0 && t.done >= window/2
			continue
		}
		if len(t.buf)-from < criuHeader {
			break
		}
		c, err := parseCommand(t.buf[from:])
		if err != nil {
			return nil, err
		}
		if c.clean() {
			if !t.trusted {
				return nil, fmt.Errorf("%w: pages of a parent", errProtocol)
			}
			present(t.buf[from:])
			t.absent = c.pages
			t.stats.Pages += int64(c.pages)
		}
		t.keep(from, criuHeader)
		from += criuHeader
		t.left, t.address = c.data(), c.address
		t.stats.Pages += int64(t.left / pageSize)
		if c.op == criuOpen || c.op == criuOpen2 {
			t.image = 0
			t.known, t.trusted = t.shadow.image(c.destination), false
			t.stats.Images++
		}
		if c.op == criuOpen2 || c.op == criuClose || c.op == criuForceClose {
			t.settle(from)
			return &c, nil
		}
	}
	t.settle(from)
	return nil, nil
}

// keep moves n bytes at from to the end of what is done.
func (t *batch) keep(from, n int) {
	if from != t.done {
		copy(t.buf[t.done:], t.buf[from:from+n])
	}
	t.done += n
}

// settle moves what was not understood yet, from on, behind what is done.
func (t *batch) settle(from int) {
	rest := len(t.buf) - from
	if from != t.done {
		copy(t.buf[t.done:], t.buf[from:])
	}
	t.buf = t.buf[:t.done+rest]
}

// takePages takes up to n pages at from, without those that need not be sent, and returns where it stopped.
func (t *batch) takePages(from int, n uint64) int {
	size := int(pageSize)
	start, end := from, from+int(n)*size
	for p := from; p < end; p += size {
		page := t.buf[p : p+size]
		zero := isZero(page)
		if !zero && (t.known == nil || !t.known.has(t.address+uint64(p-from), page)) {
			continue
		}
		t.take(start, p-start)
		t.mark(!zero)
		start = p + size
		if len(t.marks) == maxMarks {
			end = start
		}
	}
	t.take(start, end-start)
	t.left -= uint64(end - from)
	t.address += uint64(end - from)
	return end
}

// takeAbsent marks the pages that CRIU did not send, as long as there is room for marks. What the target does not have, contrary to what
// CRIU thinks, or has of another page that lay there, is read from the process and put in at from. It returns where to go on.
func (t *batch) takeAbsent(from int) (int, error) {
	size := int(pageSize)
	for ; t.absent > 0 && len(t.marks) < maxMarks && !t.cut; t.absent, t.address = t.absent-1, t.address+pageSize {
		entry, err := t.known.process.entry(t.address, t.absent)
		if err != nil {
			return from, err
		}
		was, now := t.known.at(t.address), frame(entry)
		if now != 0 && was&^frameZero == now {
			t.mark(was == now)
			continue
		}
		if t.page == nil {
			t.page = make([]byte, size)
		}
		page := t.page
		if err := t.known.process.read(t.address, page); err != nil {
			return from, err
		}
		if isZero(page) {
			t.mark(false)
			continue
		}
		end := len(t.buf)
		t.buf = t.buf[:end+size]
		copy(t.buf[from+size:], t.buf[from:end])
		copy(t.buf[from:], page)
		t.take(from, size)
		from += size
		t.cut = t.done >= window || cap(t.buf)-len(t.buf) < size+maxMarks*markSize+markCount
	}
	return from, nil
}

// take keeps n bytes of pages at from, which will be sent.
func (t *batch) take(from, n int) {
	t.keep(from, n)
	t.image += uint64(n)
	t.stats.Bytes += int64(n)
}

// mark notes one page that is left out at the end of what is done.
func (t *batch) mark(known bool) {
	if known {
		t.stats.KnownPages++
	} else {
		t.stats.ZeroPages++
		t.image += pageSize // a hole
	}
	if k := len(t.marks); k > 0 && int(t.marks[k-1].offset) == t.done && t.marks[k-1].known == known && t.marks[k-1].pages < markKnown-1 {
		t.marks[k-1].pages++
		return
	}
	t.marks = append(t.marks, mark{uint32(t.done), 1, known})
}
