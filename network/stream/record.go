package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of what a record may hold, in bytes.
const (
	maxPath       = 4095
	maxName       = 255
	maxTarget     = 4095
	maxXattrs     = 512 << 10 // names and values of one entry together
	maxXattrValue = 64 << 10
)

// Kinds of record.
const (
	recordNode   = 'N' // path, mode, uid, gid, mtime, extra, xattrs
	recordLink   = 'L' // path, path of an earlier entry
	recordRemove = 'R' // path
	recordData   = 'D' // offset, bytes: of the regular file whose node came last
	recordZero   = 'Z' // offset, length: allocated, reads as zero
	recordEnd    = 'E' // size: the regular file is complete
)

// Errors of the record decoder.
var (
	errRecord = errors.New("malformed record")
	errPath   = errors.New("unacceptable path")
)

// xattr is one extended attribute.
type xattr struct {
	name  string
	value []byte
}

// record is one decoded record. Byte slices and strings are copies, but for data, which lies in the frame.
type record struct {
	kind   byte
	path   string
	target string // of a symbolic link, or the path a hard link leads to
	mode   uint32
	uid    uint32
	gid    uint32
	mtime  Time
	rdev   uint64
	offset int64
	length int64 // of zeros, or of the complete file
	data   []byte
	xattrs []xattr
}

// typ is the file type bits of a node.
func (r *record) typ() uint32 { return r.mode & unix.S_IFMT }

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// appendNode appends a node record.
func appendNode(b []byte, e *Entry, target string, xattrs []xattr) []byte {
	b = append(b, recordNode)
	b = appendString(b, e.Path)
	b = binary.AppendUvarint(b, uint64(e.Mode))
	b = binary.AppendUvarint(b, uint64(e.UID))
	b = binary.AppendUvarint(b, uint64(e.GID))
	b = binary.AppendVarint(b, e.Mtime.Sec)
	b = binary.AppendUvarint(b, uint64(e.Mtime.Nsec))
	b = binary.AppendUvarint(b, e.Rdev)
	b = appendString(b, target)
	b = binary.AppendUvarint(b, uint64(len(xattrs)))
	for _, x := range xattrs {
		b = appendString(b, x.name)
		b = appendString(b, string(x.value))
	}
	return b
}

func appendLink(b []byte, path, to string) []byte {
	return appendString(appendString(append(b, recordLink), path), to)
}

func appendRemove(b []byte, path string) []byte { return appendString(append(b, recordRemove), path) }

func appendZero(b []byte, offset, length int64) []byte {
	b = binary.AppendUvarint(append(b, recordZero), uint64(offset))
	return binary.AppendUvarint(b, uint64(length))
}

func appendEnd(b []byte, size int64) []byte {
	return binary.AppendUvarint(append(b, recordEnd), uint64(size))
}

// dataOverhead is the most that a data record is longer than its data. Its length has a fixed width, so that data can be read into place.
const dataOverhead = 1 + binary.MaxVarintLen64 + 4

// appendDataHead appends a data record but for the n bytes of data that must follow.
func appendDataHead(b []byte, offset int64, n int) []byte {
	b = binary.AppendUvarint(append(b, recordData), uint64(offset))
	return binary.BigEndian.AppendUint32(b, uint32(n))
}

// cursor reads a payload. After the first error every read returns zero values.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) fail() {
	if c.err == nil {
		c.err = errRecord
	}
	c.b = nil
}

func (c *cursor) byte() byte {
	if len(c.b) == 0 {
		c.fail()
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

func (c *cursor) uint(limit uint64) uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 || v > limit {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) int() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.fail()
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) bytes(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.fail()
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) string(limit int) string { return string(c.bytes(int(c.uint(uint64(limit))))) }

// path reads a path and checks it.
func (c *cursor) path() string {
	p := c.string(maxPath)
	if c.err == nil {
		if c.err = checkPath(p); c.err != nil {
			c.b = nil
		}
	}
	return p
}

const maxInt64 = 1<<63 - 1

// next decodes one record into r and reports whether there was one. At the end of the payload and after an error there is none.
func (c *cursor) next(r *record) bool {
	if c.err != nil || len(c.b) == 0 {
		return false
	}
	*r = record{kind: c.byte(), xattrs: r.xattrs[:0]}
	switch r.kind {
	case recordNode:
		c.node(r)
	case recordLink:
		r.path, r.target = c.path(), c.path()
	case recordRemove:
		r.path = c.path()
	case recordData:
		r.offset = int64(c.uint(maxInt64))
		if head := c.bytes(4); head != nil {
			r.data = c.bytes(int(binary.BigEndian.Uint32(head)))
		}
		r.length = int64(len(r.data))
	case recordZero:
		r.offset, r.length = int64(c.uint(maxInt64)), int64(c.uint(maxInt64))
	case recordEnd:
		r.length = int64(c.uint(maxInt64))
	default:
		c.fail()
	}
	if r.offset > maxInt64-r.length {
		c.fail()
	}
	return c.err == nil
}

func (c *cursor) node(r *record) {
	r.path = c.path()
	r.mode = uint32(c.uint(1<<32 - 1))
	r.uid, r.gid = uint32(c.uint(1<<32-1)), uint32(c.uint(1<<32-1))
	r.mtime = Time{c.int(), int32(c.uint(999_999_999))}
	r.rdev = c.uint(1<<64 - 1)
	r.target = c.string(maxTarget)
	count := c.uint(maxXattrs)
	total := 0
	for range count {
		x := xattr{name: c.string(maxName), value: nil}
		x.value = append(x.value, c.bytes(int(c.uint(maxXattrValue)))...)
		total += len(x.name) + len(x.value)
		if x.name == "" || strings.IndexByte(x.name, 0) >= 0 || total > maxXattrs {
			c.fail()
		}
		if c.err != nil {
			return
		}
		r.xattrs = append(r.xattrs, x)
	}
	c.checkNode(r)
}

// checkNode refuses what no file is.
func (c *cursor) checkNode(r *record) {
	ok := r.mode&^(unix.S_IFMT|0o7777) == 0
	switch r.typ() {
	case unix.S_IFLNK:
		ok = ok && r.target != "" && strings.IndexByte(r.target, 0) < 0
	case unix.S_IFDIR, unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK:
		ok = ok && r.target == "" && r.rdev == 0
	case unix.S_IFCHR, unix.S_IFBLK:
		ok = ok && r.target == ""
	default:
		ok = false
	}
	if r.path == "." && r.typ() != unix.S_IFDIR {
		ok = false
	}
	if !ok {
		c.fail()
	}
}

// checkPath accepts "." and clean relative paths whose elements are proper names.
func checkPath(p string) error {
	if p == "." {
		return nil
	}
	if p == "" || len(p) > maxPath {
		return fmt.Errorf("%w: %d bytes long", errPath, len(p))
	}
	for name := range strings.SplitSeq(p, "/") {
		if name == "" || name == "." || name == ".." || len(name) > maxName || strings.IndexByte(name, 0) >= 0 {
			return fmt.Errorf("%w: %.200q", errPath, p)
		}
	}
	return nil
}

// depthOf is the number of a path's elements.
func depthOf(p string) int {
	if p == "." {
		return 0
	}
	return 1 + strings.Count(p, "/")
}
