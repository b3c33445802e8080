package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Stats is what a transfer of a tree did.
type Stats struct {
	Entries int   `json:"entries"` // names made or updated
	Removed int   `json:"removed"` // names removed, each with all below it
	Bytes   int64 `json:"bytes"`   // file content sent, without holes
	Skipped int   `json:"skipped"` // names that had vanished or changed their type when they were to be sent
}

// Documents of the tree frames.
type (
	treeBegin struct {
		Entries int   `json:"entries"`
		Bytes   int64 `json:"bytes"`
	}
	treeEnd struct {
		Error string `json:"error,omitempty"`
	}
	treeDone struct {
		Error string `json:"error,omitempty"`
		Stats
	}
)

// errRefused ends a sender whose receiver has already answered.
var errRefused = errors.New("receiver stopped early")

// Send makes the tree below root on the other side, where Receive runs, undergo the change: removals first, then the entries in their
// order. The change must come from scans of root. Entries are sent as they are now, not as they were scanned; one that has vanished or
// become another type is skipped, and file content may change while it is read: a scan made before the transfer and Diff with a later
// one tell what has to be sent again.
//
// While Send runs, nothing else may read from the connection. It returns when the receiver has confirmed everything, and fails with a
// *RemoteError as soon as the receiver reports a failure; the connection remains usable then.
func Send(ctx context.Context, c *Conn, root string, change Change) (Stats, error) {
	b, err := openBeneath(root)
	if err != nil {
		return Stats{}, err
	}
	defer b.close()
	defer c.Pinging()()
	release := c.Watch(ctx)
	stats, err := sendTree(ctx, c, b, &change)
	if stopped := release(); stopped != nil && err != nil {
		return stats, fmt.Errorf("send %s: %w", root, stopped)
	}
	if err != nil {
		return stats, fmt.Errorf("send %s: %w", root, err)
	}
	return stats, nil
}

func sendTree(ctx context.Context, c *Conn, b *beneath, change *Change) (Stats, error) {
	if err := c.WriteJSON(typeTreeBegin, treeBegin{len(change.Changed) + len(change.Removed), change.Bytes()}); err != nil {
		return Stats{}, err
	}
	s := &treeSender{b: b, reply: c.Await(typeTreeDone), out: c.WriteAhead(typeTreeData), links: make(map[inode]string)}
	sent := s.run(change)
	if err := s.out.Close(); err != nil { // the connection is broken, or a write of it
		if s.reply.WithinGrace(ctx) {
			if remote := s.verdict(); remote != nil {
				err = remote
			}
		}
		return s.stats, err
	}
	var end treeEnd
	if sent != nil {
		end.Error = sent.Error()
	}
	if err := c.WriteJSON(typeTreeEnd, end); err != nil {
		return s.stats, err
	}
	if err := s.verdict(); sent == nil || errors.Is(sent, errRefused) {
		return s.stats, err
	}
	return s.stats, sent
}

// treeSender is one run of Send.
type treeSender struct {
	b     *beneath
	reply *Reply
	out   *Writer
	buf   []byte
	attrs xattrReader
	links map[inode]string // files with several names that were sent, and under which
	stats Stats
}

// verdict waits for the receiver's answer.
func (s *treeSender) verdict() error {
	var done treeDone
	if err := s.reply.JSON(&done); err != nil {
		return err
	}
	if done.Error != "" {
		return &RemoteError{s.reply.conn.String(), done.Error}
	}
	return nil
}

func (s *treeSender) run(change *Change) error {
	for _, path := range change.Removed {
		if err := s.room(len(path) + 16); err != nil {
			return err
		}
		s.buf = appendRemove(s.buf, path)
		s.stats.Removed++
	}
	for i := range change.Changed {
		if err := s.entry(&change.Changed[i]); err != nil {
			return fmt.Errorf("%s: %w", change.Changed[i].Path, err)
		}
	}
	return s.flush()
}

// room makes sure that n more bytes fit into the present frame.
func (s *treeSender) room(n int) error {
	if s.buf != nil && len(s.buf)+n <= cap(s.buf) {
		return nil
	}
	if err := s.flush(); err != nil {
		return err
	}
	var err error
	s.buf, err = s.out.Buffer()
	return err
}

// flush sends the present frame. It is also where a receiver that has given up is noticed.
func (s *treeSender) flush() error {
	select {
	case <-s.reply.Done():
		return errRefused
	default:
	}
	if len(s.buf) == 0 {
		return nil
	}
	buf := s.buf
	s.buf = nil
	return s.out.Send(buf)
}

// entry sends one entry in its present state.
func (s *treeSender) entry(scanned *Entry) error {
	dir, name, err := s.b.parent(scanned.Path)
	if err != nil {
		return s.skip(err)
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return s.skip(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	e := entryOf(scanned.Path, &st)
	if (e.Mode^scanned.Mode)&unix.S_IFMT != 0 {
		return s.skip(unix.ENOENT)
	}
	if first, ok := s.links[e.inode()]; ok && e.linked() {
		s.stats.Entries++
		return s.link(e.Path, first)
	}
	attrs, err := s.attrs.read(dir, name)
	if err != nil {
		return s.skip(err)
	}
	err = s.node(fd, &e, attrs, &st)
	if err == nil && e.linked() {
		s.links[e.inode()] = e.Path
	}
	return err
}

// skip counts an entry that is not there any more; other errors it returns.
func (s *treeSender) skip(err error) error {
	if passed(err) {
		s.stats.Skipped++
		return nil
	}
	return err
}

func (s *treeSender) link(path, first string) error {
	if err := s.room(len(path) + len(first) + 16); err != nil {
		return err
	}
	s.buf = appendLink(s.buf, path, first)
	return nil
}

// node sends the node open as fd, and the content of a file.
func (s *treeSender) node(fd int, e *Entry, attrs []xattr, st *unix.Stat_t) error {
	var target string
	content := -1
	var err error
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err = readlink(fd)
	case unix.S_IFREG:
		content, err = openContent(fd)
	}
	if err != nil {
		return s.skip(err)
	}
	if content >= 0 {
		defer unix.Close(content)
	}
	need := len(e.Path) + len(target) + 128
	for _, x := range attrs {
		need += len(x.name) + len(x.value) + 16
	}
	if err := s.room(need); err != nil {
		return err
	}
	s.buf = appendNode(s.buf, e, target, attrs)
	s.stats.Entries++
	if content < 0 {
		return nil
	}
	return s.content(content, st)
}

// readlink reads the symbolic link open as fd.
func readlink(fd int) (string, error) {
	b := make([]byte, maxTarget+1)
	n, err := unix.Readlinkat(fd, "", b)
	if err != nil {
		return "", fmt.Errorf("read link: %w", err)
	}
	if n > maxTarget {
		return "", fmt.Errorf("read link: longer than %d bytes", maxTarget)
	}
	return string(b[:n]), nil
}

// openContent opens the regular file behind an O_PATH descriptor, so that nothing else can be opened in its place.
func openContent(fd int) (int, error) {
	path := procSelf(fd)
	content, err := unix.Open(path, unix.O_RDONLY|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EPERM) { // not the owner
		content, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return -1, fmt.Errorf("open: %w", err)
	}
	return content, nil
}

// content sends the data of a regular file: what is allocated, without holes.
func (s *treeSender) content(fd int, st *unix.Stat_t) error {
	size := st.Size
	sparse := st.Blocks*512 < size
	for offset := int64(0); offset < size; {
		end := size
		if sparse {
			var err error
			if offset, end, err = nextData(fd, offset, size); err != nil {
				return err
			}
		}
		for offset < end {
			n, err := s.piece(fd, offset, end)
			if err != nil {
				return err
			}
			if n == 0 { // it has shrunk
				size, end = offset, offset
			}
			offset += n
		}
	}
	if err := s.room(16); err != nil {
		return err
	}
	s.buf = appendEnd(s.buf, size)
	return nil
}

// nextData returns the bounds of the next range at or after offset that is not a hole, both size if there is none.
func nextData(fd int, offset, size int64) (int64, int64, error) {
	start, err := unix.Seek(fd, offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size, nil
	}
	if errors.Is(err, unix.EINVAL) { // the file system does not know
		return offset, size, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("find data: %w", err)
	}
	end, err := unix.Seek(fd, start, unix.SEEK_HOLE)
	if err != nil {
		if errors.Is(err, unix.ENXIO) { // it has shrunk
			return size, size, nil
		}
		return 0, 0, fmt.Errorf("find hole: %w", err)
	}
	return min(start, size), min(end, size), nil
}

const (
	pieceMax = 256 << 10 // a data record is not longer, so that zeros are noticed in pieces
	pieceMin = 32 << 10  // and not shorter for want of room in a frame
)

// piece sends up to pieceMax bytes from offset and returns how many; 0 at the end of the file.
func (s *treeSender) piece(fd int, offset, end int64) (int64, error) {
	want := int(min(end-offset, pieceMax))
	if err := s.room(dataOverhead + min(want, pieceMin)); err != nil {
		return 0, err
	}
	mark := len(s.buf)
	s.buf = appendDataHead(s.buf, offset, 0)
	head := len(s.buf)
	want = min(want, cap(s.buf)-head)
	n, err := unix.Pread(fd, s.buf[head:head+want], offset)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Pread(fd, s.buf[head:head+want], offset)
	}
	if err != nil {
		s.buf = s.buf[:mark]
		return 0, fmt.Errorf("read: %w", err)
	}
	s.buf = s.buf[:head+n]
	if n == 0 || allZero(s.buf[head:]) {
		s.buf = s.buf[:mark]
		if n > 0 {
			s.buf = appendZero(s.buf, offset, int64(n))
		}
		return int64(n), nil
	}
	binary.BigEndian.PutUint32(s.buf[head-4:], uint32(n))
	s.stats.Bytes += int64(n)
	return int64(n), nil
}

var zeros [64 << 10]byte

// allZero says whether p holds nothing but zeros. It looks at little of what is not.
func allZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeros))
		if !bytes.Equal(p[:n], zeros[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}
