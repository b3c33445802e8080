package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	flockPath = "/tmp/flock"
	posixPath = "/tmp/posix-lock"
	ofdPath   = "/tmp/ofd-lock"
)

// byteRange is a write lock on bytes 10 to 29.
func byteRange() *unix.Flock_t { return &unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 20} }

// locks holds a lock of each kind; a child tries to get them.
func locks() (func() error, error) {
	for _, path := range []string{flockPath, posixPath, ofdPath} {
		fd, err := unix.Open(path, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		switch path {
		case flockPath:
			err = unix.Flock(fd, unix.LOCK_EX)
		case posixPath:
			err = unix.FcntlFlock(uintptr(fd), unix.F_SETLK, byteRange())
		case ofdPath:
			err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, byteRange())
		}
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
	}
	expected := fmt.Sprintf("flock held, posix held by %d from 10 for 20, ofd held from 10 for 20", os.Getpid())
	return func() error {
		k, err := spawn("trylock")
		if err != nil {
			return err
		}
		defer k.conn.Close()
		said, err := k.in.ReadString('\n')
		var status unix.WaitStatus
		_, waitErr := unix.Wait4(k.pid, &status, 0, nil)
		return errors.Join(err, waitErr, want("what another process sees", strings.TrimSpace(said), expected))
	}, nil
}

// tryLocks says what another process finds locked.
func tryLocks([]string) int {
	var said []string
	for _, path := range []string{flockPath, posixPath, ofdPath} {
		fd, err := unix.Open(path, unix.O_RDWR, 0)
		if err != nil {
			return 1
		}
		l := byteRange()
		l.Start, l.Len = 0, 0
		switch path {
		case flockPath:
			said = append(said, "flock "+free(!errors.Is(unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)))
		case posixPath:
			err = unix.FcntlFlock(uintptr(fd), unix.F_GETLK, l)
			said = append(said, fmt.Sprintf("posix %s by %d from %d for %d", free(l.Type == unix.F_UNLCK), l.Pid, l.Start, l.Len))
		case ofdPath:
			err = unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, l)
			said = append(said, fmt.Sprintf("ofd %s from %d for %d", free(l.Type == unix.F_UNLCK), l.Start, l.Len))
		}
		if err != nil {
			said = append(said, err.Error())
		}
	}
	fmt.Fprintln(os.NewFile(3, "parent"), strings.Join(said, ", "))
	return 0
}

func free(yes bool) string {
	if yes {
		return "free"
	}
	return "held"
}

// deletedFile has a file open, and mapped, that has no name any more. The descriptor stands in the middle.
func deletedFile(size int) func() (func() error, error) {
	return func() (func() error, error) {
		path := "/tmp/deleted-" + strconv.Itoa(size)
		fd, err := syscall.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o640)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		content := noise(8, size)
		if _, err := unix.Write(fd, content); err != nil {
			return nil, os.NewSyscallError("write", err)
		}
		mapped, err := unix.Mmap(fd, 0, size, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return nil, os.NewSyscallError("mmap", err)
		}
		if _, err := unix.Seek(fd, int64(size/2), io.SeekStart); err != nil {
			return nil, os.NewSyscallError("lseek", err)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		return func() error {
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				return os.NewSyscallError("fstat", err)
			}
			at, err := unix.Seek(fd, 0, io.SeekCurrent)
			if err != nil {
				return os.NewSyscallError("lseek", err)
			}
			got := make([]byte, size)
			if _, err := unix.Pread(fd, got, 0); err != nil {
				return os.NewSyscallError("pread", err)
			}
			if !bytes.Equal(got, content) || !bytes.Equal(mapped, content) {
				return errors.New("content changed")
			}
			if _, err := unix.Pwrite(fd, content[:1], 0); err != nil {
				return os.NewSyscallError("pwrite", err)
			}
			_, statErr := os.Lstat(path)
			return errors.Join(want("names", st.Nlink, 0), want("size", int(st.Size), size), want("mode", st.Mode&0o777, 0o640&^0o027),
				want("offset", int(at), size/2), want("a file of its old name", statErr == nil, false))
		}, nil
	}
}

// directory has a directory open, and a file in it open for appending.
func directory() (func() error, error) {
	if err := os.MkdirAll("/tmp/dir", 0o755); err != nil {
		return nil, err
	}
	dir, err := unix.Open("/tmp/dir", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: "/tmp/dir", Err: err}
	}
	f, err := os.OpenFile("/tmp/dir/appended", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	expected := ""
	return func() error {
		if _, err := f.WriteString("line\n"); err != nil {
			return err
		}
		expected += "line\n"
		fd, err := unix.Openat(dir, "appended", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("openat", err)
		}
		in := os.NewFile(uintptr(fd), "appended")
		defer in.Close()
		got, err := io.ReadAll(in)
		return errors.Join(err, want("content", string(got), expected))
	}, nil
}
