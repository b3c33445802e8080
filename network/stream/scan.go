package stream

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Scan reads the metadata of every name below root, root itself included. Other file systems mounted below are not entered; their mount
// points appear as the directories they are. What vanishes while Scan looks is left out, so a tree in use may be scanned.
func Scan(root string) (*Index, error) {
	b, err := openBeneath(root)
	if err != nil {
		return nil, err
	}
	defer b.close()
	x := &Index{Began: time.Now()}
	var st unix.Stat_t
	if err := unix.Fstat(b.top, &st); err != nil {
		return nil, fmt.Errorf("scan %s: %w", root, err)
	}
	x.Entries = append(x.Entries, entryOf(".", &st))
	if err := x.scan(b, b.top, ".", "."); err != nil {
		return nil, fmt.Errorf("scan %s: %w", root, err)
	}
	sortEntries(x.Entries)
	return x, nil
}

// scan adds what is in the directory name of parent, whose path is path.
func (x *Index) scan(b *beneath, parent int, name, path string) error {
	fd, err := b.openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		if passed(err) {
			return nil
		}
		return fmt.Errorf("open %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	for {
		names, err := f.Readdirnames(1024)
		for _, n := range names {
			if err := x.scanName(b, fd, n, join(path, n)); err != nil {
				return err
			}
		}
		if err == io.EOF || err != nil && passed(err) { // a removed directory can't be listed
			return nil
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", path, err)
		}
	}
}

func (x *Index) scanName(b *beneath, dir int, name, path string) error {
	if len(path) > maxPath {
		return fmt.Errorf("%s: %w", path, errPath)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if passed(err) {
			return nil
		}
		return fmt.Errorf("stat %s: %w", path, err)
	}
	x.Entries = append(x.Entries, entryOf(path, &st))
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return x.scan(b, dir, name, path)
}

// passed says whether an error only means that a name has changed since it was read, or that it leads to another mount.
func passed(err error) bool {
	return slices.ContainsFunc([]error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV, unix.ESTALE}, func(e error) bool {
		return errors.Is(err, e)
	})
}
