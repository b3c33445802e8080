package preflight

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/criu"
)

// ghostLimit is the most that CRIU saves of a deleted file, in bytes: package criu asks for it.
const ghostLimit = 1 << 30

// magicQueue is the type of the file system of POSIX message queues, MQUEUE_MAGIC.
const magicQueue = 0x19800202

const (
	hintOutside = "close it, or mount what it is in into the pod"
	hintDevice  = "close it before the move, or run the program without it"
)

// lookAtDescriptors looks at all open files of a process.
func (s *scan) lookAtDescriptors(p *process) error {
	fds, err := numbers(p.dir, "fd")
	if err != nil || len(fds) == 0 {
		return err
	}
	dir, err := openAt(p.dir, "fd", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	for _, fd := range fds {
		f, err := statAt(dir, strconv.Itoa(fd))
		if err == nil {
			err = s.lookAtDescriptor(p, dir, fd, &f)
		}
		if err != nil && !gone(err) {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
	}
	return nil
}

func (s *scan) lookAtDescriptor(p *process, dir, fd int, f *file) error {
	link := func() string { t, _ := readlinkAt(dir, strconv.Itoa(fd)); return t }
	about := finding{process: p, fd: fd}
	if s.streams[criu.FileName(f.mount, f.ino)] {
		return nil
	}
	switch f.kind() {
	case unix.S_IFSOCK:
		return s.lookAtSocket(p, fd, f)
	case unix.S_IFIFO:
		return s.lookAtPipe(p, dir, fd, f)
	case unix.S_IFCHR:
		s.lookAtDevice(about, f, link)
	case unix.S_IFBLK:
		about.code, about.what, about.detail = BlockDevice, link(), "CRIU can't save open block devices"
		about.hint = hintDevice
		s.add(about)
	default:
		if s.mounts[f.mount] == nil {
			text := link()
			if special, err := s.lookAtSpecial(about, f, text); special || err != nil {
				return err
			}
		}
		s.judgeFile(about, f, link)
	}
	return nil
}

// lookAtSpecial looks at a descriptor that is of no mount of the pod, and says whether it is a kernel object, and thereby
// judged.
func (s *scan) lookAtSpecial(about finding, f *file, link string) (bool, error) {
	switch {
	case strings.HasPrefix(link, "anon_inode:inotify"), link == "anon_inode:[fanotify]":
		return true, s.lookAtWatches(about)
	case link == "anon_inode:[pidfd]", strings.HasPrefix(link, "pidfd:["):
		return true, s.lookAtPidfd(about)
	case strings.HasPrefix(link, "anon_inode:"):
		s.judgeObject(about, strings.TrimPrefix(link, "anon_inode:"))
		return true, nil
	case f.dev == s.memory, strings.HasPrefix(link, "/memfd:"): // the second with huge pages
		return true, nil
	case strings.HasPrefix(link, "/secretmem"):
		about.code, about.detail = BlockSecretMem, "CRIU can't save secret memory (memfd_secret)"
		about.hint = "run the program without it"
		s.add(about)
		return true, nil
	}
	if kind, _, ok := strings.Cut(link, ":["); ok && !strings.HasPrefix(link, "/") {
		s.judgeNamespace(about, kind, link)
		return true, nil
	}
	var fs unix.Statfs_t
	if unix.Statfs(fmt.Sprintf("/proc/%d/fd/%d", about.process.pid, about.fd), &fs) == nil && fs.Type == magicQueue {
		if len(s.plan.Queues) == 0 {
			about.code, about.what, about.detail = BlockQueue, link, "there is no mqueue file system to find it in on the target"
			about.hint = "mount one on /dev/mqueue"
			s.add(about)
		}
		return true, nil
	}
	return false, nil
}

// known are the kernel objects that CRIU carries.
var known = map[string]bool{"[eventfd]": true, "[eventpoll]": true, "[signalfd]": true, "[timerfd]": true}

// unknown are kernel objects that CRIU does not know, by the beginning of their names. What is not here has no better code.
var unknown = []struct{ name, code, detail, hint string }{
	{"[io_uring]", BlockIOUring, "CRIU can't save io_uring", "run the program without io_uring"},
	{"[userfaultfd]", BlockUffd, "CRIU can't save userfaultfd", "run the program without userfaultfd"},
	{"[perf_event]", BlockPerf, "CRIU can't save performance counters", "end the profiling"},
	{"bpf", BlockBPF, "CRIU can't save BPF objects", "run the program without BPF"},
	{"[bpf", BlockBPF, "CRIU can't save BPF objects", "run the program without BPF"},
	{"kvm", BlockKVM, "CRIU can't save virtual machines", "move the virtual machine by its own means"},
	{"[kvm", BlockKVM, "CRIU can't save virtual machines", "move the virtual machine by its own means"},
	{"seccomp notify", BlockSeccomp, "CRIU can't save a seccomp listener", "run the program without its system call supervisor"},
	{"[vfio", BlockDevice, "CRIU can't save devices handed to a program", hintDevice},
}

// judgeObject judges an anonymous inode by its name, as in anon_inode:[eventfd].
func (s *scan) judgeObject(about finding, name string) {
	if known[name] {
		return
	}
	about.code, about.detail = BlockDescriptor, "CRIU can't save a kernel object of kind "+strings.Trim(name, "[]")
	about.hint = "close it before the move, or run the program without it"
	for _, u := range unknown {
		if strings.HasPrefix(name, u.name) {
			about.code, about.detail, about.hint = u.code, u.detail, u.hint
			break
		}
	}
	s.add(about)
}

// judgeNamespace judges a descriptor of a namespace: it has to be one of the pod's.
func (s *scan) judgeNamespace(about finding, kind, link string) {
	for _, p := range s.procs {
		for _, k := range namespaceKinds {
			if p.namespaces[k] == link {
				return
			}
		}
	}
	about.code, about.detail = BlockNamespace, fmt.Sprintf("it is a %s namespace that is not the pod's (%s)", kind, link)
	about.hint = "close it before the move"
	s.add(about)
}

// lookAtPidfd judges a pidfd: it has to be of a process of the pod, or of one that has ended, and not of a thread.
func (s *scan) lookAtPidfd(about finding) error {
	text, err := readAt(about.process.dir, "fdinfo/"+strconv.Itoa(about.fd))
	if err != nil {
		return err
	}
	pid, flags := parsePidfd(text)
	about.code = BlockPidfd
	if flags&unix.O_EXCL != 0 {
		about.detail, about.hint = "CRIU can't save the pidfd of a thread", "run the program without PIDFD_THREAD"
		s.add(about)
		return nil
	}
	for _, p := range s.procs {
		if p.pid == pid {
			return nil
		}
	}
	if pid > 0 && !s.isZombie(pid) {
		about.detail, about.hint = "it is of "+nameOf(pid)+", which is not in the pod", "close it before the move"
		s.add(about)
	}
	return nil
}

// isZombie says whether pid has ended as a child of the pod that was not waited for. Cgroups do not list those.
func (s *scan) isZombie(pid int) bool {
	p, err := openProcess(pid)
	if err != nil {
		return gone(err)
	}
	defer p.close()
	for _, parent := range s.procs {
		if parent.pid == p.parent {
			return p.zombie()
		}
	}
	return false
}

// parsePidfd reads the fdinfo of a pidfd; pid is not positive when the process has ended.
func parsePidfd(fdinfo string) (pid int, flags int64) {
	for line := range strings.SplitSeq(fdinfo, "\n") {
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); key {
		case "Pid":
			pid, _ = strconv.Atoi(value)
		case "flags":
			flags, _ = strconv.ParseInt(value, 8, 64)
		}
	}
	return pid, flags
}

// judgeFile judges an open file, directory or symbolic link, or a mapped file, or what a process runs or is in.
func (s *scan) judgeFile(about finding, f *file, link func() string) {
	m := s.mounts[f.mount]
	name := func() string {
		if about.what == "" {
			return link()
		}
		return about.what + " " + link()
	}
	switch {
	case m == nil:
		about.what = name()
		about.code, about.detail, about.hint = BlockFile, "it is not on a mount of the pod", hintOutside
	case s.mounts.isHidden(m):
		about.what = name()
		about.code, about.detail = BlockFile, "another mount hides the one that it is on ("+m.target+")"
		about.hint = "close it, or remove the mount above it"
	case f.links == 0 && f.kind() == unix.S_IFREG && f.blocks*512 > ghostLimit:
		about.what = name()
		about.code = BlockGhost
		about.detail = fmt.Sprintf("it is deleted but still open, and with %d MiB larger than CRIU saves (1024 MiB)", f.blocks/2048)
		about.hint = "close it, truncate it, or give it a name again"
	default:
		return
	}
	s.add(about)
}

// majors of devices, from the kernel's documentation.
const (
	majorMemory = 1
	majorMisc   = 10
	minorFuse   = 229
	minorKVM    = 232
	minorAutofs = 235
	minorTun    = 200
)

// lookAtDevice judges a character device.
func (s *scan) lookAtDevice(about finding, f *file, link func() string) {
	major, minor := f.rdev[0], f.rdev[1]
	if isTerminal(major, minor) {
		s.lookAtTerminal(about, f, link)
		return
	}
	if major == majorMemory || major == majorMisc && minor == minorAutofs {
		s.judgeFile(about, f, link)
		return
	}
	about.code, about.what, about.hint = BlockDevice, link(), hintDevice
	about.detail = fmt.Sprintf("CRIU can't save this device (%d:%d)", major, minor)
	switch {
	case major == majorMisc && minor == minorFuse:
		about.code, about.detail = BlockFuse, "CRIU can't save a FUSE file system's connection"
	case major == majorMisc && minor == minorKVM:
		about.code, about.detail, about.hint = BlockKVM, "CRIU can't save virtual machines", "move the virtual machine by its own means"
	case major == majorMisc && minor == minorTun:
		about.detail = "CRIU can't save a tun or tap device in the pod's network namespace"
	}
	s.add(about)
}
