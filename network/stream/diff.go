package stream

import (
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// racy is how long before a scan a file's last change may lie and still not be trusted: on kernels before 6.13 a file's times only move
// with the timer tick, so a change right after the scan can leave them as they were.
const racy = 50 * time.Millisecond

// Diff returns what turns the tree of old into that of new. A name counts as changed when its type, mode, owner, size, modification or
// change time, device number or inode differs, when it was changed so shortly before the old scan that its times can't tell, and when
// another name of the same inode changed: hard links are always sent together. It compares metadata only, so both must be scans of the
// same directory.
func Diff(old, new *Index) Change {
	var c Change
	trusted := old.Began.Add(-racy)
	changed := make([]bool, len(new.Entries))
	inodes := make(map[inode]bool)
	i, j := 0, 0
	for i < len(old.Entries) || j < len(new.Entries) {
		switch order := compareHeads(old.Entries[i:], new.Entries[j:]); {
		case order < 0:
			c.remove(old.Entries[i].Path)
			i++
		case order > 0:
			changed[j] = true
			j++
		default:
			a, b := &old.Entries[i], &new.Entries[j]
			changed[j] = !same(a, b) || b.Ctime.after(trusted)
			i, j = i+1, j+1
		}
	}
	for j := range new.Entries {
		if e := &new.Entries[j]; changed[j] && e.linked() {
			inodes[e.inode()] = true
		}
	}
	for j := range new.Entries {
		if e := &new.Entries[j]; changed[j] || e.linked() && inodes[e.inode()] {
			c.Changed = append(c.Changed, *e)
		}
	}
	return c
}

// compareHeads orders the first entries of two lists, of which at most one is empty.
func compareHeads(a, b []Entry) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	return comparePaths(a[0].Path, b[0].Path)
}

// remove adds a path unless the directory it was in is gone as well.
func (c *Change) remove(path string) {
	if n := len(c.Removed); n > 0 {
		if rest, ok := strings.CutPrefix(path, c.Removed[n-1]); ok && rest[0] == '/' {
			return
		}
	}
	c.Removed = append(c.Removed, path)
}

// same says whether an entry is unchanged. A directory's link count and a file's with it follow from the names.
func same(a, b *Entry) bool {
	if a.Mode != b.Mode || a.UID != b.UID || a.GID != b.GID || a.Ino != b.Ino || a.Dev != b.Dev {
		return false
	}
	if a.Mtime != b.Mtime || a.Ctime != b.Ctime {
		return false
	}
	if a.Mode&unix.S_IFMT == unix.S_IFDIR {
		return true
	}
	return a.Size == b.Size && a.Rdev == b.Rdev && a.Nlink == b.Nlink
}
