package stream

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Time is a file's time with the file system's full range and resolution.
type Time struct {
	Sec  int64
	Nsec int32
}

// timeOf converts what stat returns.
func timeOf(ts unix.Timespec) Time { return Time{int64(ts.Sec), int32(ts.Nsec)} }

// spec is the inverse of timeOf.
func (t Time) spec() unix.Timespec { return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)} }

// after says whether t is later than u.
func (t Time) after(u time.Time) bool {
	return cmp.Or(cmp.Compare(t.Sec, u.Unix()), cmp.Compare(int(t.Nsec), u.Nanosecond())) > 0
}

// Entry is one name in a tree with what lstat says of it.
type Entry struct {
	Path     string // relative to the tree's root, clean, "." for the root itself
	Mode     uint32 // st_mode: type and permissions
	UID, GID uint32
	Nlink    uint32
	Size     int64 // bytes; of regular files and symbolic links
	Mtime    Time
	Ctime    Time
	Ino, Dev uint64
	Rdev     uint64 // of device nodes
}

// entryOf makes an Entry of what stat returned.
func entryOf(path string, st *unix.Stat_t) Entry {
	e := Entry{
		Path: path, Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint32(min(uint64(st.Nlink), 1<<32-1)), Mtime: timeOf(st.Mtim),
		Ctime: timeOf(st.Ctim), Ino: st.Ino, Dev: uint64(st.Dev),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFLNK:
		e.Size = st.Size
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Rdev = uint64(st.Rdev)
	}
	return e
}

// IsDir says whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Mode&unix.S_IFMT == unix.S_IFDIR }

// linked says whether the entry may have other names.
func (e *Entry) linked() bool { return !e.IsDir() && e.Nlink > 1 }

// inode identifies a file within a host.
type inode struct{ dev, ino uint64 }

func (e *Entry) inode() inode { return inode{e.Dev, e.Ino} }

// Index is the state of a tree at a moment: every name in it.
type Index struct {
	Began   time.Time // when the scan began
	Entries []Entry   // sorted by path; a directory precedes what is in it
}

// Bytes is the sum of the sizes of the tree's regular files, counting a file with several names once.
func (x *Index) Bytes() int64 { return sizeOf(x.Entries) }

func sizeOf(entries []Entry) int64 {
	var total int64
	var seen map[inode]bool
	for i := range entries {
		e := &entries[i]
		if e.Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if e.linked() {
			if seen[e.inode()] {
				continue
			}
			if seen == nil {
				seen = make(map[inode]bool)
			}
			seen[e.inode()] = true
		}
		total += e.Size
	}
	return total
}

// All is the change that makes the whole tree out of nothing.
func (x *Index) All() Change { return Change{Changed: x.Entries} }

// Change is what turns one state of a tree into another.
type Change struct {
	Changed []Entry  // new or different, sorted by path
	Removed []string // gone, sorted; what was in a removed directory is not listed
}

// Empty says whether there is nothing to do.
func (c *Change) Empty() bool { return len(c.Changed) == 0 && len(c.Removed) == 0 }

// Bytes is the sum of the sizes of the changed regular files, as Index.Bytes counts.
func (c *Change) Bytes() int64 { return sizeOf(c.Changed) }

// comparePaths orders paths so that everything in a directory follows it without a gap.
func comparePaths(a, b string) int {
	if a == b {
		return 0
	}
	if a == "." {
		return -1
	}
	if b == "." {
		return 1
	}
	n := min(len(a), len(b))
	for i := range n {
		if a[i] == b[i] {
			continue
		}
		if a[i] == '/' {
			return -1
		}
		if b[i] == '/' {
			return 1
		}
		return cmp.Compare(a[i], b[i])
	}
	return cmp.Compare(len(a), len(b))
}

func sortEntries(entries []Entry) {
	slices.SortFunc(entries, func(a, b Entry) int { return comparePaths(a.Path, b.Path) })
}

// join puts a name below a directory of a tree.
func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// split is the inverse of join; the root has the name ".".
func split(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return ".", path
}
