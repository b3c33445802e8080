package preflight

import (
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Files of /proc are read with bare system calls: there are many of them, and package os would ask epoll about each.

// readAt returns the content of the file name in the directory dir.
func readAt(dir int, name string) (string, error) {
	fd, err := openAt(dir, name, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	buf := make([]byte, 4096)
	for n := 0; ; {
		m, err := unix.Read(fd, buf[n:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return "", err
		case m == 0:
			return unsafe.String(unsafe.SliceData(buf), n), nil
		}
		if n += m; n == len(buf) {
			buf = append(buf, make([]byte, 3*len(buf))...)
		}
	}
}

func openAt(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// readlinkAt returns what the link name in the directory dir says.
func readlinkAt(dir int, name string) (string, error) {
	var buf [4096]byte
	n, err := unix.Readlinkat(dir, name, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// numbers returns the entries of the directory name in dir that are numbers, such as /proc/PID/fd, in the kernel's order.
func numbers(dir int, name string) ([]int, error) {
	var out []int
	err := entries(dir, name, func(e entry) {
		if n, err := strconv.Atoi(e.name); err == nil {
			out = append(out, n)
		}
	})
	return out, err
}

// entry is an entry of a directory.
type entry struct {
	name string
	ino  uint64
	kind byte // DT_DIR and so on
}

// entries calls f for each entry of the directory name in dir, without . and "..".
func entries(dir int, name string, f func(entry)) error {
	fd, err := openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var buf [16384]byte
	for {
		n, err := unix.Getdents(fd, buf[:])
		if err != nil || n <= 0 {
			return err
		}
		const header = int(unsafe.Offsetof(unix.Dirent{}.Name))
		for at := 0; at+header < n; {
			d := (*unix.Dirent)(unsafe.Pointer(&buf[at]))
			if d.Reclen == 0 {
				break
			}
			text := buf[at+header : at+int(d.Reclen)]
			if s := unix.ByteSliceToString(text); s != "." && s != ".." {
				f(entry{s, d.Ino, d.Type})
			}
			at += int(d.Reclen)
		}
	}
}

// file is what statx tells of a file.
type file struct {
	mode   uint32
	dev    uint64
	ino    uint64
	rdev   [2]uint32
	links  uint32
	blocks uint64 // of 512 bytes
	mount  uint64
}

func (f *file) kind() uint32 { return f.mode & unix.S_IFMT }

// statAt follows the link name in dir, as those of /proc/PID/fd lead to open files, without asking a file server.
func statAt(dir int, name string) (file, error) {
	var st unix.Statx_t
	const mask = unix.STATX_TYPE | unix.STATX_MODE | unix.STATX_INO | unix.STATX_NLINK | unix.STATX_BLOCKS | unix.STATX_MNT_ID
	if err := unix.Statx(dir, name, unix.AT_STATX_DONT_SYNC, mask, &st); err != nil {
		return file{}, err
	}
	return file{
		mode: uint32(st.Mode), dev: unix.Mkdev(st.Dev_major, st.Dev_minor), ino: st.Ino,
		rdev: [2]uint32{st.Rdev_major, st.Rdev_minor}, links: st.Nlink, blocks: st.Blocks, mount: st.Mnt_id,
	}, nil
}
