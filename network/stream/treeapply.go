package stream

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// remove removes a path and all below it.
func (r *treeReceiver) remove(path string) error {
	if path == "." {
		return fmt.Errorf("remove: %w", errPath)
	}
	dir, name, _, err := r.parent(path)
	if err != nil {
		if passed(err) { // gone with its directory
			r.stats.Removed++
			return nil
		}
		return err
	}
	if err := removeAll(dir, name, r.limits.MaxDepth); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	r.b.forgetBelow(path)
	r.stats.Removed++
	return nil
}

// link gives a file that is already there another name.
func (r *treeReceiver) link(path, to string) error {
	if path == "." || to == "." || path == to {
		return fmt.Errorf("link to %s: %w", to, errPath)
	}
	fromDir, fromName, err := r.b.parent(to)
	if err != nil {
		return fmt.Errorf("link to %s: open its directory: %w", to, err)
	}
	from, err := unix.Openat(fromDir, fromName, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("link to %s: %w", to, err)
	}
	defer unix.Close(from)
	dir, name, _, err := r.parent(path)
	if err != nil {
		return err
	}
	err = unix.Linkat(from, "", dir, name, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.EEXIST) {
		if err = r.clear(dir, name, path); err == nil {
			err = unix.Linkat(from, "", dir, name, unix.AT_EMPTY_PATH)
		}
	}
	if errors.Is(err, unix.ENOENT) { // AT_EMPTY_PATH wants CAP_DAC_READ_SEARCH
		err = unix.Linkat(unix.AT_FDCWD, procSelf(from), dir, name, unix.AT_SYMLINK_FOLLOW)
	}
	if err != nil {
		return fmt.Errorf("link to %s: %w", to, err)
	}
	delete(r.dirs, path)
	r.stats.Entries++
	return nil
}

// clear removes what stands in the way of a new entry.
func (r *treeReceiver) clear(dir int, name, path string) error {
	if err := removeAll(dir, name, r.limits.MaxDepth); err != nil {
		return fmt.Errorf("replace: %w", err)
	}
	r.b.forgetBelow(path)
	return nil
}

// make makes the node of a record, in place of what is there; a directory is kept and updated.
func (r *treeReceiver) make(rec *record) error {
	dir, name, inherits, err := r.parent(rec.path)
	if err != nil {
		return err
	}
	fresh := true
	err = r.create(dir, name, rec)
	if errors.Is(err, unix.EEXIST) {
		if rec.typ() == unix.S_IFDIR && isDir(dir, name) {
			fresh, err = false, nil
		} else if err = r.clear(dir, name, rec.path); err == nil {
			err = r.create(dir, name, rec)
		}
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", typeName(rec.typ()), err)
	}
	r.stats.Entries++
	delete(r.dirs, rec.path) // what it was before does not matter any more
	if rec.typ() == unix.S_IFREG {
		r.node, r.fileDir, r.end = *rec, dir, 0
		r.node.xattrs = append([]xattr(nil), rec.xattrs...)
		r.fileACL = inherits
		return nil
	}
	if err := r.attributes(dir, name, rec, fresh, inherits); err != nil {
		return err
	}
	if rec.typ() == unix.S_IFDIR {
		if err := r.noteDir(rec.path, rec.mtime); err != nil {
			return err
		}
		if rec.path == "." {
			r.topACL = hasDefaultACL(dir, ".")
		}
		r.b.forgetBelow(rec.path) // its access control list may be new
		return nil
	}
	if err := setTime(dir, name, rec.mtime); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// create makes the bare node, without permissions for anybody else.
func (r *treeReceiver) create(dir int, name string, rec *record) error {
	switch rec.typ() {
	case unix.S_IFDIR:
		if rec.path == "." {
			return unix.EEXIST
		}
		return unix.Mkdirat(dir, name, 0o700)
	case unix.S_IFLNK:
		return unix.Symlinkat(rec.target, dir, name)
	case unix.S_IFREG:
		fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == nil {
			r.file = fd
		}
		return err
	}
	return unix.Mknodat(dir, name, rec.typ()|0o600, int(rec.rdev))
}

func isDir(dir int, name string) bool {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

func typeName(typ uint32) string {
	switch typ {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symbolic link"
	case unix.S_IFREG:
		return "file"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	case unix.S_IFCHR:
		return "character device"
	}
	return "block device"
}

// attributes sets owner, mode and extended attributes, in the order in which one does not undo another.
func (r *treeReceiver) attributes(dir int, name string, rec *record, fresh, inherits bool) error {
	if err := unix.Fchownat(dir, name, int(rec.uid), int(rec.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if rec.typ() != unix.S_IFLNK {
		// Without AT_SYMLINK_NOFOLLOW, which old kernels lack here; what was made above is no link, and nobody else is in the tree.
		if err := unix.Fchmodat(dir, name, rec.mode&0o7777, 0); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	return r.attrs.writeXattrs(dir, name, rec.xattrs, fresh, inherits)
}

// content writes to the file that is open, or completes it.
func (r *treeReceiver) content(rec *record) error {
	if rec.kind == recordEnd {
		return r.complete(rec.length)
	}
	if r.used += rec.length; r.used > r.limits.MaxBytes || rec.length > r.limits.MaxBytes {
		return fmt.Errorf("%w: more than %d bytes of content", ErrLimit, r.limits.MaxBytes)
	}
	r.end = max(r.end, rec.offset+rec.length)
	if rec.kind == recordZero {
		return r.zero(rec.offset, rec.length)
	}
	r.stats.Bytes += rec.length
	return pwrite(r.file, rec.data, rec.offset)
}

// zero allocates a range that reads as zeros.
func (r *treeReceiver) zero(offset, length int64) error {
	if length == 0 {
		return nil
	}
	err := unix.Fallocate(r.file, 0, offset, length)
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("allocate %d bytes: %w", length, err)
	}
	for length > 0 {
		n := min(length, int64(len(zeros)))
		if err := pwrite(r.file, zeros[:n], offset); err != nil {
			return err
		}
		offset, length = offset+n, length-n
	}
	return nil
}

func pwrite(fd int, p []byte, offset int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, offset)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write %d bytes: %w", len(p), err)
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

// complete gives the open file its size and everything else, and closes it.
func (r *treeReceiver) complete(size int64) error {
	if size < r.end {
		return fmt.Errorf("%w: %d bytes long, written to %d", errRecord, size, r.end)
	}
	if err := unix.Ftruncate(r.file, size); err != nil {
		return fmt.Errorf("set size to %d: %w", size, err)
	}
	rec := &r.node
	_, name := split(rec.path)
	if err := r.attributes(r.fileDir, name, rec, true, r.fileACL); err != nil {
		return err
	}
	if err := setTime(r.fileDir, name, rec.mtime); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	fd := r.file
	r.file = -1
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// closeFile closes a file that was left incomplete.
func (r *treeReceiver) closeFile() {
	if r.file >= 0 {
		_ = unix.Close(r.file) // the transfer has failed already
		r.file = -1
	}
}
