package pages

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// What CRIU's images look like (criu/image.c, images/pagemap.proto): the pagemap has two magic numbers, then records, each a length and
// a protobuf message; the pages image is nothing but pages.
const (
	magicCommon  = 0x54564319
	magicPagemap = 0x56084025

	// firstPagesID numbers the pages images like CRIU's own page server does, out of the way of those that a dump numbers itself.
	firstPagesID = 0x10001

	pagemapBuffer = 128 << 10 // records that are collected before they are written
)

// run is pages that follow one another and are all in the same place.
type run struct {
	address, pages uint64
	flags          uint32
}

// MountOptions is what a tmpfs for images should be mounted with here beside its size and mode: large folios where the kernel has them,
// which halve the time that writing a page takes. Zero pages stay holes.
func MountOptions() []string {
	if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage/shmem_enabled"); err != nil {
		return nil
	}
	return []string{"huge=within_size"}
}

// images writes the images of one dump, one after the other as CRIU sends them.
type images struct {
	dir  *os.File
	last uint32 // pages images opened so far

	name    string // of the present pagemap, "" if there is none
	pagemap int
	records []byte

	destination uint64
	run         run      // of pages of one kind, the next record
	file        int      // present pages image
	pieces      [][]byte // pages that go to it next, in the frame that holds them
	offset      int64    // where they go
	queued      int64    // their bytes
}

// open begins the images of a destination; the previous ones are complete.
func (m *images) open(destination uint64) error {
	if err := m.finish(); err != nil {
		return err
	}
	id, infix := destination>>8, ""
	if destination&0xff == kindShared {
		infix = "-shmem"
	}
	m.last++
	name := fmt.Sprintf("pagemap%s-%d.img", infix, id)
	pagemap, err := m.create(name)
	if err != nil {
		return err
	}
	number := firstPagesID + m.last - 1
	file, err := m.create(fmt.Sprintf("pages-%d.img", number))
	if err != nil {
		_ = unix.Close(pagemap) // empty
		return err
	}
	m.name, m.pagemap, m.file, m.destination, m.offset = name, pagemap, file, destination, 0
	m.records = binary.LittleEndian.AppendUint32(m.records[:0], magicCommon)
	m.records = binary.LittleEndian.AppendUint32(m.records, magicPagemap)
	m.records = appendRecord(m.records, field{1, uint64(number)})
	return nil
}

func (m *images) create(name string) (int, error) {
	fd, err := unix.Openat(int(m.dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, fmt.Errorf("create %s: %w", name, err)
	}
	return fd, nil
}

// entry begins the pages of a command. Those that are said to be present follow, or are marked as zeros or as known.
func (m *images) entry(c *command) error {
	if m.name == "" || c.destination != m.destination {
		return fmt.Errorf("%w: pages for %#x, which is not open", errProtocol, c.destination)
	}
	if err := m.record(); err != nil {
		return err
	}
	m.run = run{address: c.address, flags: c.flags}
	if c.data() == 0 {
		m.run.pages = c.pages
	}
	return nil
}

// extend adds pages to the present run, or begins one if they are elsewhere than its pages.
func (m *images) extend(n uint64, parent bool) error {
	was := m.run
	if was.flags&flagParent != 0 != parent {
		flags := was.flags ^ (flagParent | flagPresent)
		if err := m.record(); err != nil {
			return err
		}
		m.run = run{address: was.address + was.pages*pageSize, flags: flags}
	}
	m.run.pages += n
	return nil
}

// record adds the present run to the pagemap, unless it is empty. The second field is what CRIU before 4.1 reads for the fifth.
func (m *images) record() error {
	r := m.run
	if m.run = (run{}); r.pages == 0 {
		return nil
	}
	m.records = appendRecord(m.records, field{1, r.address}, field{2, min(r.pages, 1<<32-1)}, field{4, uint64(r.flags)}, field{5, r.pages})
	if len(m.records) < pagemapBuffer {
		return nil
	}
	return m.writeRecords()
}

func (m *images) writeRecords() error {
	for p := m.records; len(p) > 0; {
		n, err := unix.Write(m.pagemap, p)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("write %s: %w", m.name, err)
		}
		p = p[max(n, 0):]
	}
	m.records = m.records[:0]
	return nil
}

// pages queues pages, which stay where they are until flush.
func (m *images) pages(p []byte) error {
	if err := m.extend(uint64(len(p))/pageSize, false); err != nil {
		return err
	}
	m.pieces = append(m.pieces, p)
	m.queued += int64(len(p))
	if len(m.pieces) < maxPieces {
		return nil
	}
	return m.flush()
}

// skip leaves a hole of n bytes for pages of zeros.
func (m *images) skip(n uint64) error {
	if err := m.flush(); err != nil {
		return err
	}
	m.offset += int64(n)
	return m.extend(n/pageSize, false)
}

// known adds n bytes of pages that the parent's images have.
func (m *images) known(n uint64) error { return m.extend(n/pageSize, true) }

// flush writes the queued pages.
func (m *images) flush() error {
	pieces := m.pieces
	for m.queued > 0 {
		n, err := unix.Pwritev(m.file, pieces, m.offset)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write pages of %s: %w", m.name, err)
		}
		m.offset += int64(n)
		m.queued -= int64(n)
		pieces = advance(pieces, n)
	}
	clear(m.pieces)
	m.pieces = m.pieces[:0]
	return nil
}

// advance cuts n bytes off the front of pieces.
func advance(pieces [][]byte, n int) [][]byte {
	for n > 0 && n >= len(pieces[0]) {
		n -= len(pieces[0])
		pieces = pieces[1:]
	}
	if n > 0 {
		pieces[0] = pieces[0][n:]
	}
	return pieces
}

// finish completes and closes the present images. Without any it does nothing.
func (m *images) finish() error {
	if m.name == "" {
		return nil
	}
	if err := errors.Join(m.flush(), m.record()); err != nil {
		return err
	}
	if err := m.writeRecords(); err != nil {
		return err
	}
	if err := unix.Ftruncate(m.file, m.offset); err != nil { // there may be a hole at the end
		return fmt.Errorf("set size of pages of %s to %d: %w", m.name, m.offset, err)
	}
	return m.abandon()
}

// abandon closes the present images as they are. Without any it does nothing.
func (m *images) abandon() error {
	if m.name == "" {
		return nil
	}
	err := errors.Join(unix.Close(m.file), unix.Close(m.pagemap))
	m.name, m.run, m.pieces, m.queued = "", run{}, nil, 0
	return err
}

// field is one number of a protobuf message.
type field struct{ number, value uint64 }

// appendRecord appends the length and the encoding of a message.
func appendRecord(b []byte, fields ...field) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	for _, f := range fields {
		b = binary.AppendUvarint(b, f.number<<3)
		b = binary.AppendUvarint(b, f.value)
	}
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}
