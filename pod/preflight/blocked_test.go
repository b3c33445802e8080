package preflight

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// blocked is a kind of pod that can't move.
type blocked struct {
	kind, title string
	want        []string // code, subject and detail of the blockers, with N for numbers that vary
	// takes: CRIU does not refuse it, but what it restores would not be the same.
	takes   bool
	prepare func(t *testing.T, dir string)
	files   func(t *testing.T) []*os.File // from descriptor 3 on
	after   func(p *testPod)
}

func (b *blocked) name() string {
	if b.title != "" {
		return b.title
	}
	return b.kind
}

var blockedObjects = []blocked{
	{kind: "io_uring", want: []string{"io-uring process 1 (init), descriptor 3: CRIU can't save io_uring"}},
	{kind: "userfaultfd", want: []string{"userfaultfd process 1 (init), descriptor 3: CRIU can't save userfaultfd"}},
	{kind: "perf", want: []string{"perf process 1 (init), descriptor 3: CRIU can't save performance counters"}},
	{kind: "perf-mapped", want: []string{"perf process 1 (init), anon_inode:[perf_event]: CRIU can't save performance counters"}},
	{kind: "bpf-map", want: []string{"bpf process 1 (init), descriptor 3: CRIU can't save BPF objects"}},
	{kind: "landlock", want: []string{"descriptor process 1 (init), descriptor 3: CRIU can't save a kernel object of kind landlock-ruleset"}},
	{kind: "fscontext", want: []string{"descriptor process 1 (init), descriptor 3: CRIU can't save a kernel object of kind fscontext"}},
	{kind: "seccomp-listener", want: []string{"seccomp-listener process 1 (init), descriptor 3: CRIU can't save a seccomp listener"}},
	{kind: "secret-memory", want: []string{"secret-memory process 1 (init), descriptor 3: CRIU can't save secret memory (memfd_secret)"}},
	{kind: "secret-memory-mapped", want: []string{"secret-memory process 1 (init), /secretmem (deleted): CRIU can't save secret memory (memfd_secret)"}},
	{kind: "kvm", want: []string{"kvm process 1 (init), descriptor 3, /tmp/kvm: CRIU can't save virtual machines"}},
	{kind: "fuse", want: []string{"fuse process 1 (init), descriptor 3, /tmp/fuse: CRIU can't save a FUSE file system's connection"}},
	{kind: "loop-control", want: []string{"device process 1 (init), descriptor 3, /tmp/loop-control: CRIU can't save this device (10:237)"}},
	{kind: "tun", want: []string{"device process 1 (init), descriptor 3, /tmp/tun: CRIU can't save a tun or tap device in the pod's network namespace"}},
	{kind: "queue", want: []string{
		"message-queue process 1 (init), descriptor 3, /queue: there is no mqueue file system to find it in on the target",
	}},
	{kind: "queue-notified", want: []string{
		"message-queue /dev/mqueue/queue: a process waits to be notified of a message (mq_notify)",
		"message-queue process 1 (init), descriptor 3, /queue: there is no mqueue file system to find it in on the target",
	}},
	{kind: "pipe-packets", want: []string{"pipe process 1 (init), descriptor 3, pipe:[N]: CRIU can't save a pipe in packet mode (O_DIRECT)"}},
	{kind: "pipe-many", want: []string{"pipe 1025 pipes: CRIU saves at most 1024 of them"}},
}

var blockedFiles = []blocked{
	{kind: "mount", want: []string{"file process 1 (init), descriptor 6, /: it is not on a mount of the pod"}},
	{kind: "hidden-file", want: []string{"file process 1 (init), descriptor 3, /tmp/m/file: another mount hides the one that it is on (/tmp/m)"}},
	{kind: "deleted-large", want: []string{
		"deleted-file process 1 (init), descriptor 3, /tmp/deleted (deleted): " +
			"it is deleted but still open, and with 1024 MiB larger than CRIU saves (1024 MiB)",
	}},
	{kind: "deleted-mapped", want: []string{
		"deleted-file process 1 (init), /tmp/deleted (deleted): " +
			"it is deleted but still open, and with 1024 MiB larger than CRIU saves (1024 MiB)",
	}},
	{kind: "watch-deleted", want: []string{"watch process 1 (init), descriptor 6, inode N: no path leads to the file that it watches on / (overlay)"}},
	{kind: "watch-proc", want: []string{"watch process 1 (init), descriptor 3, inode N: no path leads to the file that it watches on /proc (proc)"}},
	{kind: "watch-fanotify", want: []string{"watch process 1 (init), descriptor 3, inode N: no path leads to the file that it watches on / (overlay)"}},
	{kind: "watch-file-system", takes: true, want: []string{"watch process 1 (init), descriptor 3: CRIU can't save a watch on a whole file system"}},
	{kind: "fifo-path", want: []string{"pipe process 1 (init), descriptor 3, /tmp/fifo: CRIU can't save a named pipe opened with O_PATH"}},
	{
		kind: "fifo-reader", prepare: fifo, takes: true,
		want: []string{"pipe process 1 (init), descriptor 3, /volume/fifo: its other end is outside the pod: process N of the host has it"},
	},
	{
		kind: "fifo-writer", prepare: fifo, takes: true,
		want: []string{"pipe process 1 (init), descriptor 3, /volume/fifo: its other end is outside the pod: process N of the host has it"},
	},
	{
		kind: "idle", title: "host file", files: opened("/etc/passwd", unix.O_RDONLY),
		want: []string{"file process 1 (init), descriptor 3, /etc/passwd: it is not on a mount of the pod"},
	},
	{
		kind: "idle", title: "host device", files: opened("/dev/null", unix.O_RDWR),
		want: []string{"file process 1 (init), descriptor 3, /dev/null: it is not on a mount of the pod"},
	},
	{
		kind: "working-directory", files: opened("/usr", unix.O_RDONLY|unix.O_DIRECTORY),
		want: []string{"file process 1 (init), working directory /usr: it is not on a mount of the pod"},
	},
	{
		kind: "idle", title: "pipe to the host", takes: true, files: passed(func() (int, error) { return pipeEnd(1) }),
		want: []string{"pipe process 1 (init), descriptor 3, pipe:[N]: its other end is outside the pod: process N of the host has it"},
	},
	{
		kind: "idle", title: "pipe from the host", takes: true, files: passed(func() (int, error) { return pipeEnd(0) }),
		want: []string{"pipe process 1 (init), descriptor 3, pipe:[N]: its other end is outside the pod: process N of the host has it"},
	},
}

var blockedSockets = []blocked{
	{kind: "mptcp", want: []string{"socket process 1 (init), descriptor 3: CRIU can't save MPTCP sockets"}},
	{kind: "mptcp6", want: []string{"socket process 1 (init), descriptor 3: CRIU can't save MPTCP sockets"}},
	{kind: "sctp", want: []string{"socket process 1 (init), descriptor 3: CRIU can't save sockets of protocol SCTP"}},
	{kind: "vsock", want: []string{"socket process 1 (init), descriptor 3: CRIU can't save sockets of family AF_VSOCK"}},
	{kind: "alg", want: []string{"socket process 1 (init), descriptor 3: CRIU can't save sockets of family AF_ALG (kernel cryptography)"}},
	{kind: "xdp", want: []string{"socket process 1 (init), descriptor 3: CRIU can't save sockets of family AF_XDP"}},
	{kind: "udp-cork", want: []string{"socket process 1 (init), descriptor 3: CRIU can't save a corked UDP socket"}},
	{kind: "tcp-waiting", want: []string{"socket process 1 (init), descriptor 3: connections wait to be accepted (1), which CRIU can't save"}},
	{kind: "tcp-ulp", takes: true, want: []string{"socket process 1 (init), descriptor 5: CRIU can't save what the kernel does on top of TCP (tls)"}},
	{kind: "ebpf-filter", want: []string{"socket process 1 (init), descriptor 6: CRIU can't read its filter, an eBPF program"}},
	{kind: "netlink-data", want: []string{"socket process 1 (init), descriptor 3: messages wait in it to be read, which CRIU can't save"}},
	{kind: "netlink-many-groups", want: []string{
		"socket process 1 (init), descriptor 3: CRIU can't save a netlink socket of a protocol with more than 32 multicast groups",
	}},
	{kind: "netlink-unbound", want: []string{
		"socket process 1 (init), descriptor 3: CRIU can't save a netlink socket that is in multicast groups but was not bound",
	}},
	{kind: "unix-identity", want: []string{
		"unix-socket process 1 (init), descriptor 3, socket:[N]: " +
			"messages with their senders' identities (SO_PASSCRED) wait in it to be read, which CRIU can't save",
	}},
	{kind: "unix-closed-waiting", want: []string{
		"unix-socket process 1 (init), descriptor 3, socket:[N]: " +
			"a connection that waits to be accepted was closed again, which CRIU can't save",
	}},
	{kind: "unix-sent-waiting", want: []string{
		"unix-socket process 1 (init), descriptor 6, socket:[N]: it has sent data and was not accepted yet, which CRIU can't save",
	}},
	{kind: "unix-path", want: []string{"socket process 1 (init), descriptor 6: CRIU can't save the path of a socket opened with O_PATH"}},
	{kind: "unix-volume", prepare: listen, want: []string{
		"unix-socket process 1 (init), descriptor 3, socket:[N]: its other end is outside the pod, at VOLUME/outside (socket:[N]): process N of the host has it",
	}},
	{kind: "unix-volume-dgram", prepare: listenPackets, want: []string{
		"unix-socket process 1 (init), descriptor 3, socket:[N]: its other end is outside the pod, at VOLUME/outside (socket:[N]): process N of the host has it",
	}},
	{
		kind: "idle", title: "socket pair with the host", files: passed(func() (int, error) { return pairEnd(unix.SOCK_STREAM) }),
		want: []string{"unix-socket process 1 (init), descriptor 3, socket:[N]: its other end is outside the pod (socket:[N]): process N of the host has it"},
	},
	{
		kind: "idle", title: "datagrams with the host", files: passed(func() (int, error) { return pairEnd(unix.SOCK_DGRAM) }),
		want: []string{"unix-socket process 1 (init), descriptor 3, socket:[N]: its other end is outside the pod (socket:[N]): process N of the host has it"},
	},
	{
		kind: "idle", title: "TCP socket of the host", files: passed(func() (int, error) {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return 0, err
			}
			return fd, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
		}), takes: true,
		want: []string{"socket process 1 (init), descriptor 3: it belongs to another network namespace than the pod's"},
	},
}

var blockedProcesses = []blocked{
	{kind: "nested-pid", want: []string{"namespace process N (init): it has namespaces of its own: pid"}},
	{kind: "nested-net", takes: true, want: []string{"namespace process N (init): it has namespaces of its own: net"}},
	{kind: "nested-mnt", takes: true, want: []string{"namespace process N (init): it has namespaces of its own: mnt"}},
	{kind: "nested-uts", want: []string{"namespace process N (init): it has namespaces of its own: uts"}},
	{kind: "nested-ipc", want: []string{"namespace process N (init): it has namespaces of its own: ipc"}},
	{kind: "nested-user", want: []string{"namespace process N (init): it has namespaces of its own: user"}},
	{kind: "nested-time", want: []string{"namespace process N (init): it has namespaces of its own: time"}},
	{kind: "nested-cgroup", want: []string{"namespace process N (init): it has namespaces of its own: cgroup"}},
	{kind: "time-for-children", want: []string{"namespace process 1 (init): it has namespaces of its own: time (for children)"}},
	{kind: "filtered-user", want: []string{
		"limits process N (init): it belongs to another user, process 1 (init) has a seccomp filter, and root lacks CAP_SYS_RESOURCE here: " +
			"CRIU can't read its limits",
	}},
	{kind: "half-dead", want: []string{"process process N (init): its first thread has ended while others run"}},
	{kind: "pidfd-thread", want: []string{"pidfd process 1 (init), descriptor 3: CRIU can't save the pidfd of a thread"}},
	{
		kind: "idle", title: "pidfd of the host", files: passed(func() (int, error) { return unix.PidfdOpen(os.Getpid(), 0) }),
		want: []string{"pidfd process 1 (init), descriptor 3: it is of process N of the host, which is not in the pod"},
	},
	{
		kind: "idle", title: "namespace of the host", files: opened("/proc/self/ns/mnt", unix.O_RDONLY),
		want: []string{"namespace process 1 (init), descriptor 3: it is a mnt namespace that is not the pod's (mnt:[N])"},
	},
	{kind: "inherited", want: []string{"descriptor process 1 (init), descriptor 3 (and in 2 other processes): CRIU can't save a kernel object of kind fscontext"}},
	{
		kind: "idle", title: "terminal of the host", files: passed(hostTerminal),
		want: []string{"terminal process 1 (init), descriptor 3, /dev/pts/N: it is a terminal of the host"},
	},
	{kind: "terminals-orphaned", after: takeOut, want: []string{
		"terminal process 1 (init), descriptor 8, /dev/pts/N: " +
			"it is the second terminal whose other end is outside the pod, and CRIU takes only one",
	}},
	{kind: "terminal-background", after: takeOut, want: []string{
		"terminal process N (init), descriptor 4, /dev/tty: " +
			"the program keeps its terminal open as /dev/tty, which CRIU saves only while it is in the foreground itself",
	}},
	{kind: "terminal-child", after: takeOut, want: []string{
		"terminal process N (init), descriptor 4, /dev/tty: " +
			"the program keeps its terminal open as /dev/tty, which CRIU saves only while it is in the foreground itself",
	}},
}

// passed hands one file to the pod.
func passed(open func() (int, error)) func(t *testing.T) []*os.File {
	return func(t *testing.T) []*os.File {
		t.Helper()
		fd, err := open()
		check(t, err)
		f := os.NewFile(uintptr(fd), "passed")
		t.Cleanup(func() { f.Close() })
		return []*os.File{f}
	}
}

func opened(path string, flags int) func(t *testing.T) []*os.File {
	return passed(func() (int, error) { return unix.Open(path, flags|unix.O_CLOEXEC, 0) })
}

// pipeEnd returns one end of a pipe. The other stays open in this process.
func pipeEnd(i int) (int, error) {
	var p [2]int
	err := unix.Pipe2(p[:], unix.O_CLOEXEC)
	return p[i], err
}

// pairEnd returns one end of a socket pair. The other stays open in this process.
func pairEnd(kind int) (int, error) {
	p, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	return p[0], err
}

func hostTerminal() (int, error) {
	_, slave, err := openTerminal()
	return slave, err
}

// fifo makes a named pipe in the volume and keeps both ends open.
func fifo(t *testing.T, dir string) {
	t.Helper()
	check(t, unix.Mkfifo(dir+"/volume/fifo", 0o600))
	f, err := os.OpenFile(dir+"/volume/fifo", os.O_RDWR, 0)
	check(t, err)
	t.Cleanup(func() { f.Close() })
}

// listen makes a unix socket in the volume, which accepts one connection.
func listen(t *testing.T, dir string) {
	t.Helper()
	l, err := net.Listen("unix", dir+"/volume/outside")
	check(t, err)
	t.Cleanup(func() { l.Close() })
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := l.Accept(); err == nil {
			accepted <- c
		}
		close(accepted)
	}()
	t.Cleanup(func() {
		l.Close()
		if c := <-accepted; c != nil {
			c.Close()
		}
	})
}

// listenPackets makes a unix datagram socket in the volume.
func listenPackets(t *testing.T, dir string) {
	t.Helper()
	c, err := net.ListenPacket("unixgram", dir+"/volume/outside")
	check(t, err)
	t.Cleanup(func() { c.Close() })
}

// takeOut takes the descriptors that the pod's first process names out of it.
func takeOut(p *testPod) {
	p.t.Helper()
	first := process{pid: p.pid, handle: -1}
	for _, fd := range p.numbers() {
		own, err := first.borrow(fd)
		check(p.t, err)
		p.t.Cleanup(func() { unix.Close(own) })
	}
	check(p.t, unix.Close(first.handle))
	p.say("\n")
	if said := p.hear(); said != "ready" {
		p.t.Fatal(said)
	}
}

// numbers reads what the pod has said, as fmt prints a slice.
func (p *testPod) numbers() []int {
	p.t.Helper()
	var out []int
	for _, word := range strings.Fields(strings.Trim(p.said, "[]")) {
		n, err := strconv.Atoi(word)
		check(p.t, err)
		out = append(out, n)
	}
	return out
}
