package stream

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// resolveBeneath is how every path below a tree's root is resolved: no link is followed, nothing above or mounted below is reached.
const resolveBeneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// beneath reaches names in a tree through descriptors. It remembers the directory it used last, because entries come sorted.
type beneath struct {
	root string // for error texts only
	top  int    // the root

	dir    string // path of the directory that cur is open on
	cur    int    // -1: none
	onOpen func(path string, fd int) error
}

// openBeneath opens the tree at root, which must be a directory and not a symbolic link.
func openBeneath(root string) (*beneath, error) {
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open tree %s: %w", root, err)
	}
	return &beneath{root: root, top: fd, cur: -1}, nil
}

func (b *beneath) close() {
	b.forget()
	_ = unix.Close(b.top) // O_PATH: nothing to lose
}

// forget closes the remembered directory.
func (b *beneath) forget() {
	if b.cur >= 0 {
		_ = unix.Close(b.cur) // O_PATH: nothing to lose
	}
	b.cur, b.dir = -1, ""
}

// parent returns a descriptor of the directory that path is in, valid until the next call, and path's last element. The root is "."
// in itself.
func (b *beneath) parent(path string) (int, string, error) {
	dir, name := split(path)
	if dir == "." {
		return b.top, name, nil
	}
	if b.cur >= 0 && b.dir == dir {
		return b.cur, name, nil
	}
	fd, err := b.openat(b.top, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return -1, "", err
	}
	b.forget()
	b.cur, b.dir = fd, dir
	if b.onOpen != nil {
		if err := b.onOpen(dir, fd); err != nil {
			return -1, "", err
		}
	}
	return fd, name, nil
}

// openat opens path strictly beneath the directory fd.
func (b *beneath) openat(fd int, path string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: resolveBeneath}
	for {
		got, err := unix.Openat2(fd, path, &how)
		if err == nil || !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return got, err
		}
	}
}

// procSelf names an open file for calls that take no descriptor.
func procSelf(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// procPath names an entry of an open directory for calls that take no descriptor. Links in the last element are up to the call.
func procPath(dir int, name string) string {
	return procSelf(dir) + "/" + name
}

// removeAll removes name in dir and, if it is a directory, all below. Nothing there is no error.
func removeAll(dir int, name string, depth int) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	if depth <= 0 {
		return unix.ELOOP
	}
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	names, err := f.Readdirnames(-1)
	for _, n := range names {
		if err == nil {
			err = removeAll(fd, n, depth-1)
		}
	}
	_ = f.Close() // read only
	if err != nil {
		return err
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

// forgetBelow closes the remembered directory if it is path or lies below it.
func (b *beneath) forgetBelow(path string) {
	if rest, ok := strings.CutPrefix(b.dir, path); b.cur >= 0 && ok && (rest == "" || rest[0] == '/') {
		b.forget()
	}
}
