package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/criu"
)

// Streams are the standard streams of a container that lead outside of it.
type Streams struct {
	// Names is how CRIU calls them: pipe:[INODE], or file[MOUNT:INODE] in hexadecimal for files of the host. It is empty for a stream that
	// does not lead outside, and for one that nothing on another host could take the place of, such as a file that is read.
	Names [3]string
	// Null says which of them are /dev/null.
	Null [3]bool
}

// Streams looks for the files that were the container's standard streams when it was created, in all of its processes: the first may
// have closed them while its children have them still.
func (c *Container) Streams() (*Streams, error) {
	s := new(Streams)
	wanted := map[string][]int{}
	for i, name := range c.state.Stdio {
		if strings.HasPrefix(name, "pipe:[") {
			s.Names[i] = name
		} else if filepath.IsAbs(name) {
			wanted[name] = append(wanted[name], i)
		}
	}
	if len(wanted) == 0 {
		return s, nil
	}
	own, err := readMountInfo(strconv.Itoa(c.state.Pid))
	if err != nil {
		return nil, fmt.Errorf("look at standard streams: %w", err)
	}
	inside := map[uint64]bool{}
	for _, m := range own {
		inside[uint64(m.id)] = true
	}
	cg, err := c.Cgroup()
	if err != nil {
		return nil, err
	}
	pids, err := cg.Procs()
	if err != nil {
		return nil, fmt.Errorf("look at standard streams: %w", err)
	}
	for _, pid := range pids {
		if err := s.find(pid, wanted, inside); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return nil, fmt.Errorf("look at standard streams: %w", err)
		}
	}
	return s, nil
}

// find looks at the descriptors of one process.
func (s *Streams) find(pid int, wanted map[string][]int, inside map[uint64]bool) error {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, fd := range fds {
		path := filepath.Join(dir, fd.Name())
		link, err := os.Readlink(path)
		if err != nil || len(wanted[link]) == 0 {
			continue
		}
		var st unix.Statx_t
		const mask = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_MNT_ID
		if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, mask, &st); err != nil || inside[st.Mnt_id] {
			continue
		}
		for _, i := range wanted[link] {
			s.take(i, &st)
		}
	}
	return nil
}

// take notes a file of the host as one of the streams, if another can take its place.
func (s *Streams) take(i int, st *unix.Statx_t) {
	null := isNull(st)
	written := i > 0 && (st.Mode&unix.S_IFMT == unix.S_IFREG || st.Mode&unix.S_IFMT == unix.S_IFIFO)
	if null || written {
		s.Names[i], s.Null[i] = criu.FileName(st.Mnt_id, st.Ino), null
	}
}

// isNull says whether a file is the null device, wherever its node is.
func isNull(st *unix.Statx_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev_major == 1 && st.Rdev_minor == 3
}

// nullStreams says which of the standard streams of a new container are the null device. One that is nil is the caller's own.
func nullStreams(files ...*os.File) (null [3]bool) {
	for i, f := range files {
		fd := i
		if f != nil {
			fd = int(f.Fd())
		}
		var st unix.Stat_t
		null[i] = unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
	}
	return null
}

// NullFiles returns CRIU's names for the null device of the host, file[MOUNT:INODE], where a process of the container has it open from
// there: as a stream of a process that was added to it, for instance.
func (c *Container) NullFiles() ([]string, error) {
	own, err := readMountInfo(strconv.Itoa(c.state.Pid))
	if err != nil {
		return nil, fmt.Errorf("look for the null device: %w", err)
	}
	seen := map[uint64]bool{}
	for _, m := range own {
		seen[uint64(m.id)] = true
	}
	cg, err := c.Cgroup()
	if err != nil {
		return nil, err
	}
	pids, err := cg.Procs()
	if err != nil {
		return nil, fmt.Errorf("look for the null device: %w", err)
	}
	var names []string
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, fd := range fds {
			path := filepath.Join(dir, fd.Name())
			if link, err := os.Readlink(path); err != nil || link != os.DevNull {
				continue
			}
			var st unix.Statx_t
			const mask = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_MNT_ID
			err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, mask, &st)
			if err == nil && isNull(&st) && !seen[st.Mnt_id] {
				seen[st.Mnt_id] = true
				names = append(names, criu.FileName(st.Mnt_id, st.Ino))
			}
		}
	}
	return names, nil
}
