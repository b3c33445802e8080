package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Limits bounds what Receive takes from a peer. A zero field means its default.
type Limits struct {
	MaxBytes   int64 // of file content, 1 TiB
	MaxEntries int   // names made, linked and removed, 4 Mi
	MaxDepth   int   // elements of a path, 1024
}

func (l Limits) withDefaults() Limits {
	if l.MaxBytes == 0 {
		l.MaxBytes = 1 << 40
	}
	if l.MaxEntries == 0 {
		l.MaxEntries = 4 << 20
	}
	if l.MaxDepth == 0 {
		l.MaxDepth = 1024
	}
	return l
}

// ErrLimit is met by a tree that is larger than Limits allow.
var ErrLimit = errors.New("tree is over its limit")

// Receive takes what one Send sends and applies it to the tree below root, an existing directory that nobody else may change meanwhile.
// Whatever the peer sends, nothing outside of root is touched. On a failure the peer is told why, and the connection remains usable
// unless the error came from it; the tree is left as far as it got.
//
// While Receive runs, nothing else may read from the connection.
func Receive(ctx context.Context, c *Conn, root string, limits Limits) (Stats, error) {
	defer c.Pinging()()
	release := c.Watch(ctx)
	r := &treeReceiver{limits: limits.withDefaults(), dirs: make(map[string]Time), file: -1}
	err := r.open(root)
	if err == nil {
		defer r.b.close()
	}
	err = r.receive(c, err)
	if stopped := release(); stopped != nil && err != nil {
		err = stopped
	}
	if err != nil {
		return r.stats, fmt.Errorf("receive %s: %w", root, err)
	}
	return r.stats, nil
}

// treeReceiver is one run of Receive.
type treeReceiver struct {
	b      *beneath
	limits Limits
	stats  Stats
	attrs  xattrReader
	dirs   map[string]Time // modification times that directories get at the end
	noted  int             // bytes of memory that dirs takes, about

	inherits bool // the directory that b remembers hands down an access control list
	topACL   bool // so does the root

	file    int // regular file that is being written, -1 if none
	fileDir int
	fileACL bool
	node    record // its node
	end     int64  // end of what was written to it
	used    int64  // bytes written to all files, zeros included
	count   int
}

func (r *treeReceiver) open(root string) error {
	b, err := openBeneath(root)
	if err != nil {
		return err
	}
	r.b = b
	b.onOpen = r.entered
	r.topACL = hasDefaultACL(b.top, ".")
	return nil
}

// receive runs the conversation: everything up to the sender's end, then the answer; after a failure, of which the caller may have had one
// already, the answer first.
func (r *treeReceiver) receive(c *Conn, err error) error {
	defer r.closeFile()
	in := c.ReadAhead(typeTreeEnd)
	defer in.Close()
	if err == nil {
		err = r.take(in)
	}
	if in.Broken() {
		return err
	}
	if err == nil {
		err = r.finish()
	}
	done := treeDone{Stats: r.stats}
	if err != nil {
		done.Error = err.Error()
	}
	if told := c.WriteJSON(typeTreeDone, done); told != nil {
		return errors.Join(err, told)
	}
	if drained := in.Drain(); drained != nil && err != nil {
		return fmt.Errorf("%w (and then: %w)", err, drained)
	}
	return err
}

// take applies frames until the sender's end.
func (r *treeReceiver) take(in *Reader) error {
	begun := false
	for {
		f, err := in.Next()
		if err != nil {
			return err
		}
		switch {
		case f.Type == typeTreeBegin && !begun:
			begun = true
			err = r.begin(f)
		case f.Type == typeTreeData && begun && !f.Control:
			err = r.frame(f.Payload)
		case f.Type == typeTreeEnd && begun:
			return r.ended(f)
		case !f.Optional():
			err = Unexpected(f)
		}
		if err != nil {
			return err
		}
	}
}

// begin refuses early what is known to be too large.
func (r *treeReceiver) begin(f Frame) error {
	var begin treeBegin
	if err := f.JSON(&begin); err != nil {
		return err
	}
	if begin.Entries > r.limits.MaxEntries || begin.Bytes > r.limits.MaxBytes {
		return fmt.Errorf("%w: %d entries and %d bytes announced", ErrLimit, begin.Entries, begin.Bytes)
	}
	return nil
}

func (r *treeReceiver) ended(f Frame) error {
	var end treeEnd
	if err := f.JSON(&end); err != nil {
		return err
	}
	if end.Error != "" {
		return fmt.Errorf("sender gave up: %.1000s", end.Error)
	}
	if r.file >= 0 {
		return fmt.Errorf("%s: %w: content without an end", r.node.path, errRecord)
	}
	return nil
}

// frame applies the records of one payload.
func (r *treeReceiver) frame(p []byte) error {
	c := cursor{b: p}
	var rec record
	for c.next(&rec) {
		if err := r.record(&rec); err != nil {
			path := rec.path
			if path == "" {
				path = r.node.path
			}
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return c.err
}

func (r *treeReceiver) record(rec *record) error {
	switch rec.kind {
	case recordData, recordZero, recordEnd:
		if r.file < 0 {
			return fmt.Errorf("%w: content without a file", errRecord)
		}
		return r.content(rec)
	}
	if r.file >= 0 {
		return fmt.Errorf("%w: content of %s without an end", errRecord, r.node.path)
	}
	if r.count++; r.count > r.limits.MaxEntries {
		return fmt.Errorf("%w: more than %d entries", ErrLimit, r.limits.MaxEntries)
	}
	if depthOf(rec.path) > r.limits.MaxDepth {
		return fmt.Errorf("%w: deeper than %d", ErrLimit, r.limits.MaxDepth)
	}
	switch rec.kind {
	case recordRemove:
		return r.remove(rec.path)
	case recordLink:
		return r.link(rec.path, rec.target)
	}
	return r.make(rec)
}

// finish gives directories their times, now that nothing changes in them any more.
func (r *treeReceiver) finish() error {
	paths := make([]string, 0, len(r.dirs))
	for p := range r.dirs {
		paths = append(paths, p)
	}
	slices.SortFunc(paths, comparePaths)
	r.b.onOpen = nil
	for _, p := range paths {
		dir, name, err := r.b.parent(p)
		if err == nil {
			err = setTime(dir, name, r.dirs[p])
		}
		if err != nil && !passed(err) { // removed since
			return fmt.Errorf("%s: set times: %w", p, err)
		}
	}
	return nil
}

// entered notes what will be needed of a directory in which something is about to change.
func (r *treeReceiver) entered(path string, fd int) error {
	r.inherits = hasDefaultACL(fd, ".")
	if _, ok := r.dirs[path]; ok {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	return r.noteDir(path, timeOf(st.Mtim))
}

// noteDir remembers the time that a directory gets at the end.
func (r *treeReceiver) noteDir(path string, t Time) error {
	const maxNoted = 256 << 20
	if r.noted += len(path) + 64; r.noted > maxNoted {
		return fmt.Errorf("%w: too many directories", ErrLimit)
	}
	r.dirs[path] = t
	return nil
}

// parent is beneath's, and says whether the directory hands down an access control list.
func (r *treeReceiver) parent(path string) (int, string, bool, error) {
	dir, name, err := r.b.parent(path)
	if err != nil {
		return -1, "", false, fmt.Errorf("open its directory: %w", err)
	}
	if dir != r.b.top {
		return dir, name, r.inherits, nil
	}
	if _, ok := r.dirs["."]; !ok {
		return dir, name, r.topACL, r.noteTop()
	}
	return dir, name, r.topACL, nil
}

func (r *treeReceiver) noteTop() error {
	var st unix.Stat_t
	if err := unix.Fstat(r.b.top, &st); err != nil {
		return fmt.Errorf("stat .: %w", err)
	}
	return r.noteDir(".", timeOf(st.Mtim))
}

func hasDefaultACL(dir int, name string) bool {
	_, err := unix.Lgetxattr(procPath(dir, name), aclDefault, nil)
	return err == nil
}

func setTime(dir int, name string, t Time) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, t.spec()}
	return unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW)
}
