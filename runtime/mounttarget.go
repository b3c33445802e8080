package runtime

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// mostLinks is how many symbolic links a path may lead over, as in the kernel.
const mostLinks = 40

// openTarget opens a path in a container whose root file system is given, to mount on it, and makes what is missing: directories, and a
// file in the end if that is wanted; never in proc or on the root itself. Symbolic links are followed inside the root, also those that lead to what is not there yet. Each step
// is made on a descriptor of a directory inside the root, which no exchange of names meanwhile leads out of it.
func openTarget(root *os.File, destination string, file bool) (*os.File, error) {
	t := &targetWalk{destination: destination, root: int(root.Fd()), file: file, rest: parts(destination)}
	fd, err := t.walk()
	if err != nil {
		return nil, err
	}
	if t.done == "" {
		return nil, errors.Join(fmt.Errorf("%q is on the top of rootfs", destination), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), destination), nil
}

// targetWalk is the way to a mountpoint.
type targetWalk struct {
	destination string

	root  int
	file  bool
	done  string   // the path from the root to here, without symbolic links; empty for the root
	rest  []string // what is left of the path
	links int
}

func parts(p string) []string {
	return strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
}

const straight = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS

// open opens the place that is reached, or one in it.
func (t *targetWalk) open(below string, flags int) (int, error) {
	p := path.Join(t.done, below)
	if p == "" {
		p = "."
	}
	fd, err := unix.Openat2(t.root, p, &unix.OpenHow{Flags: uint64(flags | unix.O_PATH | unix.O_CLOEXEC), Resolve: straight})
	if err != nil {
		return -1, &os.PathError{Op: "openat2", Path: p, Err: err}
	}
	return fd, nil
}

func (t *targetWalk) walk() (int, error) {
	for len(t.rest) > 0 {
		part := t.rest[0]
		t.rest = t.rest[1:]
		switch part {
		case ".":
			continue
		case "..":
			if t.done = path.Dir(t.done); t.done == "." {
				t.done = ""
			}
			continue
		}
		if err := t.step(part); err != nil {
			return -1, err
		}
	}
	return t.open("", 0)
}

// step goes to a name in the place that is reached.
func (t *targetWalk) step(part string) error {
	fd, err := t.open(part, unix.O_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		if err = t.make(part); err == nil {
			fd, err = t.open(part, unix.O_NOFOLLOW)
		}
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return fmt.Errorf("fstatfs %s: %w", part, err)
	}
	if fs.Type == unix.PROC_SUPER_MAGIC {
		return fmt.Errorf("%q cannot be mounted because it is inside /proc", t.destination)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("fstat %s: %w", part, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.done = path.Join(t.done, part)
		return nil
	}
	if t.links++; t.links > mostLinks {
		return &os.PathError{Op: "openat2", Path: path.Join(t.done, part), Err: unix.ELOOP}
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return &os.PathError{Op: "readlinkat", Path: path.Join(t.done, part), Err: err}
	}
	link := string(buf[:n])
	if path.IsAbs(link) {
		t.done = ""
	}
	t.rest = append(parts(link), t.rest...)
	return nil
}

// make makes a name in the place that is reached: the file if it is the last one, or else a directory.
func (t *targetWalk) make(part string) error {
	dir, err := t.open("", unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	call := "mkdirat"
	if t.file && len(t.rest) == 0 {
		call = "mknodat"
		err = unix.Mknodat(dir, part, unix.S_IFREG|0o644, 0)
	} else {
		err = unix.Mkdirat(dir, part, 0o755)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: call, Path: path.Join(t.done, part), Err: err}
	}
	return nil
}
