package preflight

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// mostPipes is how many different pipes CRIU saves, and as many named ones.
const mostPipes = 1024

// pipe is a pipe or fifo of which the pod has an end.
type pipe struct {
	file
	name         string // pipe:[INODE], or a fifo's path
	named        bool
	about        finding // who has it
	read, write  bool    // which ends the pod has
	packets      bool    // O_DIRECT on one of them
	disconnected bool    // there is no other end any more
}

// lookAtPipe notes an end of a pipe.
func (s *scan) lookAtPipe(p *process, dir, fd int, f *file) error {
	link, err := readlinkAt(dir, strconv.Itoa(fd))
	if err != nil {
		return err
	}
	if s.streams[link] {
		return nil
	}
	var ends unix.Stat_t // the link itself has the mode of the open file
	if err := unix.Fstatat(dir, strconv.Itoa(fd), &ends, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	key := fileKey{f.dev, f.ino}
	one := s.pipes[key]
	if one == nil {
		one = &pipe{file: *f, name: link, named: link != fmt.Sprintf("pipe:[%d]", f.ino), about: finding{process: p, fd: fd}}
		s.pipes[key] = one
	}
	if one.named {
		s.judgeFile(finding{process: p, fd: fd}, f, func() string { return link })
	}
	read, write := ends.Mode&0o400 != 0, ends.Mode&0o200 != 0
	if !read && !write {
		s.add(finding{
			code: BlockPipe, process: p, fd: fd, what: link, detail: "CRIU can't save a named pipe opened with O_PATH",
			hint: "close it before the move",
		})
		return nil
	}
	if read && one.read && (!write || one.write) || write && one.write && !read {
		return nil // an end like those seen
	}
	one.read, one.write = one.read || read, one.write || write
	return one.examine(p, fd)
}

// examine asks the kernel about the open file itself.
func (one *pipe) examine(p *process, fd int) error {
	own, err := p.borrow(fd)
	if err != nil {
		return err
	}
	defer unix.Close(own)
	flags, err := unix.FcntlInt(uintptr(own), unix.F_GETFL, 0)
	if err == nil && flags&unix.O_DIRECT != 0 {
		one.packets = true
	}
	poll := []unix.PollFd{{Fd: int32(own)}}
	if _, err := unix.Poll(poll, 0); err == nil {
		one.disconnected = poll[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	}
	return nil
}

// judgePipes judges the pipes when all of their ends are known.
func (s *scan) judgePipes() {
	var count, named int
	for _, one := range s.pipes {
		switch {
		case one.read && one.named:
			named++
		case one.read:
			count++
		}
		if one.packets && !one.named {
			f := one.about
			f.code, f.what, f.detail = BlockPipe, one.name, "CRIU can't save a pipe in packet mode (O_DIRECT)"
			f.hint = "run the program without it"
			s.add(f)
		}
		s.judgeOtherEnd(one)
	}
	for _, c := range []struct {
		count int
		what  string
	}{{count, "pipes"}, {named, "named pipes"}} {
		if c.count > mostPipes {
			s.add(finding{
				code: BlockPipe, fd: -1, what: fmt.Sprintf("%d %s", c.count, c.what),
				detail: fmt.Sprintf("CRIU saves at most %d of them", mostPipes), hint: "close some, or end some processes",
			})
		}
	}
}

// judgeOtherEnd reports a pipe whose other end is held outside.
func (s *scan) judgeOtherEnd(one *pipe) {
	if one.read && one.write || one.disconnected {
		return
	}
	f := one.about
	f.code, f.what, f.detail = BlockPipe, one.name, "its other end is outside the pod"
	f.hint = "close it before the move, or give the pod a standard stream for it"
	if one.named {
		m := s.mounts[one.mount]
		if m == nil || !s.isVolume(m) {
			return // only the pod can open it
		}
		// A reader that waits for the first writer looks just like one that has a writer.
		who := s.heldOutside(fileKey{one.dev, one.ino})
		if who == "" {
			return
		}
		f.detail += ": " + who + " has it"
	}
	s.add(f)
}
