package preflight

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// program returns what runs in a test pod of the kind. Programs keep their descriptors open by not closing them. An error
// that begins with "skip: " says what the machine lacks.
func program(kind string) func() error {
	for _, list := range []map[string]func() error{objectKinds, socketKinds, processKinds} {
		if run := list[kind]; run != nil {
			return run
		}
	}
	return func() error { return errors.New("no such kind") }
}

// objectKinds open files and other objects that CRIU does not take.
var objectKinds = map[string]func() error{
	"io_uring": func() error {
		var params [120]byte
		_, err := raw("io_uring", unix.SYS_IO_URING_SETUP, 4, pointer(&params), 0)
		return err
	},
	"userfaultfd": func() error { _, err := raw("userfaultfd", unix.SYS_USERFAULTFD, unix.O_CLOEXEC|1, 0, 0); return err },
	"perf":        func() error { _, err := perf(); return err },
	"perf-mapped": func() error {
		fd, err := perf()
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.Mmap(fd, 0, 2*os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		return err
	},
	"bpf-map": func() error {
		attr := struct{ kind, key, value, entries, flags uint32 }{2, 4, 4, 1, 0}
		_, err := raw("bpf", unix.SYS_BPF, unix.BPF_MAP_CREATE, pointer(&attr), unsafe.Sizeof(attr))
		return err
	},
	"landlock": func() error {
		attr := struct{ access uint64 }{1}
		_, err := raw("landlock", unix.SYS_LANDLOCK_CREATE_RULESET, pointer(&attr), 8, 0)
		return err
	},
	"fscontext": func() error { _, err := unix.Fsopen("tmpfs", 0); return err },
	"mount": func() error {
		fs, err := unix.Fsopen("tmpfs", 0)
		if err != nil {
			return err
		}
		defer unix.Close(fs)
		if err := unix.FsconfigCreate(fs); err != nil {
			return err
		}
		_, err = unix.Fsmount(fs, 0, 0)
		return err
	},
	"seccomp-listener": func() error {
		const newListener = 8
		filter := []unix.SockFilter{{Code: 6, K: 0x7fff0000}} // allow everything
		prog := unix.SockFprog{Len: 1, Filter: &filter[0]}
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
		_, err := raw("seccomp", unix.SYS_SECCOMP, 1, newListener, pointer(&prog))
		return err
	},
	"secret-memory": func() error { _, err := secret(); return err },
	"secret-memory-mapped": func() error {
		fd, err := secret()
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		return skip("map secret memory", err)
	},
	"kvm":          device("kvm", 10, 232),
	"fuse":         device("fuse", 10, 229),
	"loop-control": device("loop-control", 10, 237),
	"tun": func() error {
		if err := unix.Mknod("/tmp/tun", unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
			return err
		}
		fd, err := unix.Open("/tmp/tun", unix.O_RDWR, 0)
		if err != nil {
			return skip("tun", err)
		}
		r, err := unix.NewIfreq("tun0")
		if err != nil {
			return err
		}
		r.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	},
	"queue": func() error { _, err := queue(); return err },
	"queue-notified": func() error {
		fd, err := queue()
		if err != nil {
			return err
		}
		event := struct { // sigevent
			value  uint64
			signal int32
			notify int32 // SIGEV_SIGNAL
			rest   [12]int32
		}{signal: int32(unix.SIGUSR1)}
		_, err = raw("mq_notify", unix.SYS_MQ_NOTIFY, uintptr(fd), pointer(&event), 0)
		return err
	},
	"pipe-packets": func() error { var p [2]int; return unix.Pipe2(p[:], unix.O_DIRECT) },
	"pipe-many": func() error {
		for range mostPipes + 1 {
			var p [2]int
			if err := unix.Pipe2(p[:], 0); err != nil {
				return err
			}
		}
		return nil
	},
	"fifo-path": func() error {
		err := unix.Mkfifo("/tmp/fifo", 0o600)
		_, oerr := unix.Open("/tmp/fifo", unix.O_PATH, 0)
		return errors.Join(err, oerr)
	},
	"fifo-reader": func() error { _, err := unix.Open("/volume/fifo", unix.O_RDONLY|unix.O_NONBLOCK, 0); return err },
	"fifo-writer": func() error { _, err := unix.Open("/volume/fifo", unix.O_WRONLY|unix.O_NONBLOCK, 0); return err },
	"hidden-file": func() error {
		if err := errors.Join(os.Mkdir("/tmp/m", 0o755), unix.Mount("tmpfs", "/tmp/m", "tmpfs", 0, "")); err != nil {
			return err
		}
		_, err := unix.Open("/tmp/m/file", unix.O_CREAT|unix.O_RDWR, 0o600)
		return errors.Join(err, unix.Mount("proc", "/tmp/m", "proc", 0, ""))
	},
	"deleted-large": func() error { return deleted(ghostLimit + 1<<16) },
	"deleted-mapped": func() error {
		fd, err := unix.Open("/tmp/deleted", unix.O_CREAT|unix.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := skip("fallocate", unix.Fallocate(fd, 0, 0, ghostLimit+1<<16)); err != nil {
			return err
		}
		_, err = unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
		return errors.Join(err, os.Remove("/tmp/deleted"))
	},
	"watch-deleted": func() error {
		fd, err := unix.Open("/tmp/deleted", unix.O_CREAT|unix.O_RDWR, 0o600) // keeps the inode
		_ = fd
		return errors.Join(err, addWatch("/tmp/deleted"), os.Remove("/tmp/deleted"))
	},
	"watch-fanotify": func() error {
		fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF, unix.O_RDONLY)
		if err != nil {
			return skip("fanotify", err)
		}
		return skip("fanotify", unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN, -1, "/tmp"))
	},
	"watch-proc": func() error { return addWatch("/proc/mounts") },
	"watch-file-system": func() error {
		fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF, unix.O_RDONLY)
		if err != nil {
			return skip("fanotify", err)
		}
		return skip("fanotify", unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN, -1, "/volume"))
	},
}

// raw makes a system call that the machine may not have.
func raw(what string, call, a, b, c uintptr) (int, error) {
	n, _, e := unix.Syscall(call, a, b, c)
	if e != 0 {
		return -1, skip(what, e)
	}
	return int(n), nil
}

func pointer[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

func skip(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("skip: %s: %w", what, err)
}

func perf() (int, error) {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
	fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	return fd, skip("perf_event_open", err)
}

func secret() (int, error) {
	fd, err := raw("memfd_secret", unix.SYS_MEMFD_SECRET, 0, 0, 0)
	if err != nil {
		return -1, err
	}
	return fd, unix.Ftruncate(fd, int64(os.Getpagesize()))
}

func device(name string, major, minor uint32) func() error {
	return func() error {
		path := "/tmp/" + name
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(major, minor))); err != nil {
			return err
		}
		_, err := unix.Open(path, unix.O_RDWR, 0)
		return skip(name, err)
	}
}

func queue() (int, error) {
	name := []byte("queue\x00")
	n, _, e := unix.Syscall6(unix.SYS_MQ_OPEN, pointer(&name[0]), unix.O_CREAT|unix.O_RDWR, 0o600, 0, 0, 0)
	if e != 0 {
		return -1, skip("mq_open", e)
	}
	return int(n), nil
}

// deleted keeps a deleted file open.
func deleted(size int64) error {
	fd, err := unix.Open("/tmp/deleted", unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Fallocate(fd, 0, 0, size); err != nil {
		return skip("fallocate", err)
	}
	return os.Remove("/tmp/deleted")
}

func addWatch(path string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	_, err = unix.InotifyAddWatch(fd, path, unix.IN_MODIFY|unix.IN_ATTRIB|unix.IN_DELETE_SELF)
	return err
}
