package cgroup

import (
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Files of cgroup file systems are read and written with bare system calls: they are small, there are many of them, and
// package os would ask epoll about each.

// writeFile writes a value to an existing file in one call. Interrupted calls are made again.
func writeFile(path, value string) error {
	fd, err := open(path, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		if _, err = unix.Write(fd, []byte(value)); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return &fs.PathError{Op: "write " + strconv.Quote(value) + " to", Path: path, Err: err}
	}
	return nil
}

// readFile returns the content of a file without the space around it.
func readFile(path string) (string, error) {
	fd, err := open(path, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var small [512]byte
	buf := small[:]
	n := 0
	for {
		m, err := unix.Read(fd, buf[n:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return "", &fs.PathError{Op: "read", Path: path, Err: err}
		case m == 0:
			return strings.TrimSpace(string(buf[:n])), nil
		}
		if n += m; n == len(buf) {
			buf = append(buf, make([]byte, len(buf)*3)...)
		}
	}
}

// open opens a file of a cgroup file system.
func open(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// readPids returns the processes in the group of directory dir itself, not in its children. A process of a pid namespace
// that this process cannot see into is listed as 0.
func readPids(dir string) ([]int, error) {
	s, err := readFile(dir + "/cgroup.procs")
	if err != nil {
		return nil, err
	}
	return parsePids(s), nil
}

// parsePids parses the lines of a cgroup.procs file.
func parsePids(s string) []int {
	if s == "" {
		return nil
	}
	pids := make([]int, 0, strings.Count(s, "\n")+1)
	for line := range strings.SplitSeq(s, "\n") {
		if pid, err := strconv.Atoi(line); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}
