package preflight

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kinds are the programs that run in test pods. They keep their descriptors open by not closing them. An error that begins
// with "skip: " says what the machine lacks.
var kinds = map[string]func() error{
	"idle":           func() error { return nil },
	"inotify-upper":  func() error { os.WriteFile("/tmp/x", nil, 0o644); return addWatch("/tmp/x") },
	"inotify-dir":    func() error { return addWatch("/tmp") },
	"inotify-lower":  func() error { return addWatch("/etc/config") },
	"inotify-root":   func() error { return addWatch("/") },
	"inotify-volume": func() error { return addWatch("/volume") },
	"inotify-newdir": func() error { os.Mkdir("/tmp/watched", 0o755); return addWatch("/tmp/watched") },
	"inotify-proc":   func() error { return addWatch("/proc/mounts") },
	"inotify-dev":    func() error { return addWatch("/dev/null") },
	"inotify-deleted": func() error {
		os.WriteFile("/tmp/x", nil, 0o644)
		f, _ := os.Open("/tmp/x")
		_ = f
		return errors.Join(addWatch("/tmp/x"), os.Remove("/tmp/x"))
	},
	"fanotify": func() error {
		fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF, unix.O_RDONLY)
		if err != nil {
			return fmt.Errorf("skip: fanotify: %w", err)
		}
		return unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN, -1, "/tmp")
	},
	"io_uring": ioUring,
	"userfaultfd": func() error {
		_, _, e := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|1, 0, 0)
		return skip("userfaultfd", e)
	},
	"perf": func() error {
		attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
		_, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		return skip("perf_event_open", err)
	},
	"bpf-map":   bpfMap,
	"kvm":       device("kvm", unix.S_IFCHR, 10, 232),
	"fuse":      device("fuse", unix.S_IFCHR, 10, 229),
	"block":     device("vda", unix.S_IFBLK, 254, 0),
	"kmsg":      func() error { _, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); return err },
	"tun":       tun,
	"secretmem": secretmem,
	"fscontext": func() error { _, err := unix.Fsopen("tmpfs", 0); return err },
	"landlock": func() error {
		attr := struct{ fs uint64 }{1}
		_, _, e := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), 8, 0)
		return skip("landlock", e)
	},
	"mount": func() error {
		fs, err := unix.Fsopen("tmpfs", 0)
		if err != nil {
			return err
		}
		if err := unix.FsconfigCreate(fs); err != nil {
			return err
		}
		_, err = unix.Fsmount(fs, 0, 0)
		unix.Close(fs)
		return err
	},
	"pidfd-thread": func() error { _, err := unix.PidfdOpen(os.Getpid(), unix.O_EXCL); return err },
	"mptcp":        socket(unix.AF_INET, unix.SOCK_STREAM, 262),
	"mptcp6":       socket(unix.AF_INET6, unix.SOCK_STREAM, 262),
	"sctp":         socket(unix.AF_INET, unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP),
	"vsock":        socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
	"alg":          socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
	"can":          socket(unix.AF_CAN, unix.SOCK_RAW, 1),
	"xdp":          socket(unix.AF_XDP, unix.SOCK_RAW, 0),
	"tipc":         socket(unix.AF_TIPC, unix.SOCK_RDM, 0),
	"key":          socket(unix.AF_KEY, unix.SOCK_RAW, 2),
	"raw":          socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
	"raw6":         socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6),
	"rawraw":       socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW),
	"udplite":      socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE),
	"packet":       socket(unix.AF_PACKET, unix.SOCK_RAW, 0),
	"ping": func() error {
		os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 100"), 0)
		return socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)()
	},
	"udp-cork": func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, 1, 1)
	},
	"netlink-pending": func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		req := []byte{20, 0, 0, 0, unix.RTM_GETLINK, 0, 1, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
		return unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	},
	"netlink-groups": func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, 33)
	},
	"netlink-plain": func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1})
	},
	"netlink-generic": func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC)
		if err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, 16)
	},
	"linklocal": linkLocal,
	"accept-queue": func() error {
		l, err := acceptQueue()
		_ = l
		return err
	},
	"ktls":        ktls,
	"packet-pipe": func() error { var p [2]int; return unix.Pipe2(p[:], unix.O_DIRECT) },
	"pipes": func() error {
		for range 1025 {
			var p [2]int
			if err := unix.Pipe2(p[:], 0); err != nil {
				return err
			}
		}
		return nil
	},
	"ghost":       func() error { return ghost(1<<30 + 4096) },
	"small-ghost": func() error { return ghost(1 << 20) },
	"mqueue":      func() error { return mqOpen("queue\x00", true) },
	"mqueue-left": func() error { return mqOpen("queue\x00", false) },
	"mqueue-file": func() error {
		if err := mqOpen("queue\x00", false); err != nil {
			return err
		}
		_, err := os.Open("/dev/mqueue/queue")
		return err
	},
	"seccomp-notify": seccompNotify,
	"memfd": func() error {
		fd, err := unix.MemfdCreate("x", unix.MFD_ALLOW_SEALING)
		if err != nil {
			return err
		}
		return unix.Ftruncate(fd, 4096)
	},
	"memfd-noexec": func() error { _, err := unix.MemfdCreate("x", 8); return err },
	"hugetlb-memfd": func() error {
		fd, err := unix.MemfdCreate("x", unix.MFD_HUGETLB)
		if err != nil {
			return err
		}
		_ = unix.Ftruncate(fd, 2<<20)
		return nil
	},
	"hugetlb": func() error {
		b, err := unix.Mmap(-1, 0, 2<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB)
		if err != nil {
			return skip("hugetlb", err)
		}
		b[0] = 1
		return nil
	},
	"hugetlb-shared": func() error {
		b, err := unix.Mmap(-1, 0, 2<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB)
		if err != nil {
			return skip("hugetlb", err)
		}
		b[0] = 1
		return nil
	},
	"sysv": func() error {
		id, err := unix.SysvShmGet(1, 8192, unix.IPC_CREAT|0o600)
		if err != nil {
			return err
		}
		_, err = unix.SysvShmAttach(id, 0, 0)
		return err
	},
	"perf-map": func() error {
		attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}
		fd, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
		if err != nil {
			return skip("perf_event_open", err)
		}
		_, err = unix.Mmap(fd, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		unix.Close(fd)
		return err
	},
	"nested-pid":    nested(unix.CLONE_NEWPID),
	"nested-net":    nested(unix.CLONE_NEWNET),
	"nested-mnt":    nested(unix.CLONE_NEWNS),
	"nested-uts":    nested(unix.CLONE_NEWUTS),
	"nested-ipc":    nested(unix.CLONE_NEWIPC),
	"nested-user":   nested(unix.CLONE_NEWUSER),
	"nested-time":   nested(unix.CLONE_NEWTIME),
	"nested-cgroup": nested(unix.CLONE_NEWCGROUP),
	"unix-reused-name": func() error {
		// a file whose name now belongs to another, with one more link
		os.WriteFile("/tmp/a", []byte("a"), 0o644)
		os.Link("/tmp/a", "/tmp/b")
		os.Open("/tmp/a")
		os.Remove("/tmp/a")
		return os.WriteFile("/tmp/a", []byte("new"), 0o644)
	},
	"linked-remap": func() error {
		os.WriteFile("/tmp/a", []byte("a"), 0o644)
		os.Link("/tmp/a", "/tmp/b")
		os.Open("/tmp/a")
		return os.Remove("/tmp/a")
	},
	"overmounted": func() error {
		os.Mkdir("/tmp/m", 0o755)
		os.WriteFile("/tmp/m/f", nil, 0o644)
		unix.Mount("tmpfs", "/tmp/m", "tmpfs", 0, "")
		os.WriteFile("/tmp/m/f", nil, 0o644)
		os.Open("/tmp/m/f")
		return unix.Mount("proc", "/tmp/m", "proc", 0, "")
	},
	"unix-unread-creds": func() error {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		unix.SetsockoptInt(p[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
		_, err = unix.Write(p[1], []byte("x"))
		return err
	},
	"unix-closed-peer": func() error {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		unix.Close(p[1])
		return err
	},
	"unix-closed-dgram-peer": func() error {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		unix.Close(p[1])
		return err
	},
	"unix-closed-in-flight": func() error {
		_, err := net.Listen("unix", "/tmp/s")
		_ = err
		fd, _ := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		l, _ := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		unix.Bind(l, &unix.SockaddrUnix{Name: "/tmp/t"})
		unix.Listen(l, 5)
		unix.Connect(fd, &unix.SockaddrUnix{Name: "/tmp/t"})
		return unix.Close(fd)
	},
	"unix-in-flight": func() error {
		fd, _ := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		l, _ := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		unix.Bind(l, &unix.SockaddrUnix{Name: "/tmp/t"})
		unix.Listen(l, 5)
		return unix.Connect(fd, &unix.SockaddrUnix{Name: "/tmp/t"})
	},
	"scm-in-flight": func() error {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		u, _, _ := unix.Syscall(unix.SYS_EVENTFD2, 0, 0, 0)
		err = unix.Sendmsg(p[0], []byte("x"), unix.UnixRights(int(u)), nil, 0)
		unix.Close(int(u))
		return err
	},
	"escaped-epoll": func() error {
		ep, _ := unix.EpollCreate1(0)
		e, _ := unix.Eventfd(0, 0)
		d, _ := unix.Dup(e)
		_ = d
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, e, &unix.EpollEvent{}); err != nil {
			return err
		}
		return unix.Close(e)
	},
	"lost-epoll": func() error {
		ep, _ := unix.EpollCreate1(0)
		e, _ := unix.Eventfd(0, 0)
		if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, e, &unix.EpollEvent{}); err != nil {
			return err
		}
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		err = unix.Sendmsg(p[0], []byte("x"), unix.UnixRights(e), nil, 0)
		unix.Close(e)
		return err
	},
	"tty-own":     func() error { _, _, err := openPty(); return err },
	"passed":      func() error { return nil },
	"cwd-outside": func() error { return unix.Fchdir(3) },
	"fifo": func() error {
		if err := unix.Mkfifo("/tmp/f", 0o600); err != nil {
			return err
		}
		_, err := os.OpenFile("/tmp/f", os.O_RDWR, 0)
		return err
	},
	"zombie-leader": func() error {
		p, err := spawn("dead-leader", nil)
		_ = p
		return err
	},
	"timens-children": func() error {
		p, err := spawn("unshare-time", nil)
		_ = p
		return err
	},
	"unshare-time": func() error { return unix.Unshare(unix.CLONE_NEWTIME) },
	"epoll-mmsg":   func() error { return nil },
}

func skip(what string, err error) error {
	if e, ok := err.(syscall.Errno); ok && e == 0 {
		return nil
	}
	if err == nil {
		return nil
	}
	return fmt.Errorf("skip: %s: %w", what, err)
}

func addWatch(path string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	_, err = unix.InotifyAddWatch(fd, path, unix.IN_MODIFY|unix.IN_ATTRIB|unix.IN_DELETE_SELF)
	return err
}

func ioUring() error {
	var params [120]byte
	_, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, uintptr(unsafe.Pointer(&params)), 0)
	return skip("io_uring", e)
}

func bpfMap() error {
	attr := struct{ kind, key, value, entries, flags uint32 }{2, 4, 4, 1, 0}
	_, _, e := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	return skip("bpf", e)
}

func device(name string, kind uint32, major, minor uint32) func() error {
	return func() error {
		path := "/tmp/" + name
		if err := unix.Mknod(path, kind|0o666, int(unix.Mkdev(major, minor))); err != nil {
			return err
		}
		_, err := os.OpenFile(path, os.O_RDONLY, 0)
		return skip(name, err)
	}
}

func tun() error {
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
}

func secretmem() error {
	fd, _, e := unix.Syscall(unix.SYS_MEMFD_SECRET, 0, 0, 0)
	if e != 0 {
		return skip("memfd_secret", e)
	}
	return unix.Ftruncate(int(fd), 4096)
}

func socket(family, kind, proto int) func() error {
	return func() error {
		_, err := unix.Socket(family, kind, proto)
		return skip(fmt.Sprintf("socket %d", family), err)
	}
}

func upLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r)
}

func linkLocal() error {
	if err := tun(); err != nil {
		return err
	}
	return errors.New("skip: not written")
}

func acceptQueue() (net.Listener, error) {
	if err := upLoopback(); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	_, err = net.Dial("tcp", l.Addr().String())
	return l, err
}

func ktls() error {
	l, err := acceptQueue()
	if err != nil {
		return err
	}
	c, err := l.Accept()
	if err != nil {
		return err
	}
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return err
	}
	return skip("kernel TLS", unix.SetsockoptString(int(f.Fd()), unix.IPPROTO_TCP, unix.TCP_ULP, "tls"))
}

func ghost(size int64) error {
	f, err := os.Create("/tmp/ghost")
	if err != nil {
		return err
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		return skip("fallocate", err)
	}
	return os.Remove("/tmp/ghost")
}

func mqOpen(name string, keep bool) error {
	b := []byte(name)
	fd, _, e := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(&b[0])), unix.O_CREAT|unix.O_RDWR, 0o600, 0, 0, 0)
	if e != 0 {
		return skip("mq_open", e)
	}
	if !keep {
		return unix.Close(int(fd))
	}
	return nil
}

func seccompNotify() error {
	filter := []unix.SockFilter{{Code: 6, K: 0x7fff0000}} // allow everything
	prog := unix.SockFprog{Len: 1, Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, 1, 8, uintptr(unsafe.Pointer(&prog)))
	return skip("seccomp", e)
}

func nested(flag uintptr) func() error {
	return func() error {
		_, err := spawn("idle", &syscall.SysProcAttr{Unshareflags: 0, Cloneflags: flag})
		return err
	}
}

func openPty() (master, slave int, err error) {
	master, err = unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return 0, 0, err
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return 0, 0, err
	}
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return 0, 0, err
	}
	slave, err = unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY, 0)
	return master, slave, err
}
