package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// mostDepth bounds how deep directories are copied.
const mostDepth = 256

// copyUp copies what is in a directory of an image into a new tmpfs: files, directories, symbolic links, fifos and device nodes with their
// owners and permissions. The image may be hostile: everything is opened by its name in a directory that is open, links are never followed,
// and only regular files are read. The size of the tmpfs bounds the work.
func copyUp(ctx context.Context, mount, from *os.File) error {
	// Both are known by their path only; reading and writing takes others.
	source, err := reopen(from, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("tmpcopyup: %w", err)
	}
	defer source.Close()
	target, err := reopen(mount, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("tmpcopyup: %w", err)
	}
	defer target.Close()
	if err := copyDir(ctx, source, target, 0); err != nil {
		return fmt.Errorf("tmpcopyup: %w", err)
	}
	return nil
}

func reopen(dir *os.File, flags int) (*os.File, error) {
	return openIn(dir, ".", flags)
}

func openIn(dir *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "openat", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// copyDir copies the content of a directory, and then its permissions and owner.
func copyDir(ctx context.Context, source, target *os.File, depth int) error {
	if depth > mostDepth {
		return fmt.Errorf("directories are more than %d deep", mostDepth)
	}
	for {
		names, err := source.Readdirnames(256)
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := copyEntry(ctx, source, target, name, depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// copyEntry copies one name of a directory. What vanishes meanwhile is left out.
func copyEntry(ctx context.Context, source, target *os.File, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(int(source.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return &os.PathError{Op: "fstatat", Path: name, Err: err}
	}
	call, err := "", error(nil)
	switch dir := int(target.Fd()); st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return copyTree(ctx, source, target, name, &st, depth)
	case unix.S_IFREG:
		return copyFile(source, target, name)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		var n int
		if n, err = unix.Readlinkat(int(source.Fd()), name, buf); err == nil {
			err = unix.Symlinkat(string(buf[:n]), dir, name)
		}
		call = "symlinkat"
	case unix.S_IFSOCK:
		return nil // nobody would listen at it
	default:
		call, err = "mknodat", unix.Mknodat(dir, name, st.Mode, int(st.Rdev))
	}
	if err != nil {
		return &os.PathError{Op: call, Path: name, Err: err}
	}
	return own(target, name, &st)
}

// copyTree copies a directory below another.
func copyTree(ctx context.Context, source, target *os.File, name string, st *unix.Stat_t, depth int) error {
	from, err := openIn(source, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer from.Close()
	if err := unix.Mkdirat(int(target.Fd()), name, 0o700); err != nil {
		return &os.PathError{Op: "mkdirat", Path: name, Err: err}
	}
	to, err := openIn(target, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := copyDir(ctx, from, to, depth+1); err != nil {
		return err
	}
	return own(target, name, st)
}

// copyFile copies a regular file with the attributes that it has when it is open.
func copyFile(source, target *os.File, name string) error {
	from, err := openIn(source, name, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer from.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(from.Fd()), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return err
	}
	to, err := openIn(target, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if err != nil {
		return err
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	return own(target, name, &st)
}

// own gives a copy its owner and then, as a change of owner takes bits away, its permissions.
func own(dir *os.File, name string, st *unix.Stat_t) error {
	err := unix.Fchownat(int(dir.Fd()), name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) { // an id that the container's user namespace does not have
		return &os.PathError{Op: "fchownat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	if err := unix.Fchmodat(int(dir.Fd()), name, st.Mode&0o7777, 0); err != nil {
		return &os.PathError{Op: "fchmodat", Path: name, Err: err}
	}
	return nil
}
