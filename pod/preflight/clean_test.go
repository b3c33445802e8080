package preflight

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// allowed is a program that has everything that CRIU carries, as far as anybody knows.
func allowed() error {
	steps := []func() error{
		allowedObjects, allowedWatches, allowedFiles, allowedMemory, allowedPipes, allowedInet, allowedUnix, allowedOther, allowedTerminals,
		allowedProcesses,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// attempt joins the error of a call that returns something besides.
func attempt[T any](errs *error) func(T, error) T {
	return func(v T, err error) T {
		*errs = errors.Join(*errs, err)
		return v
	}
}

func allowedObjects() (err error) {
	try := attempt[int](&err)
	event := try(unix.Eventfd(3, unix.EFD_NONBLOCK))
	poll := try(unix.EpollCreate1(0))
	err = errors.Join(err, unix.EpollCtl(poll, unix.EPOLL_CTL_ADD, event, &unix.EpollEvent{Events: unix.EPOLLIN}))
	timer := try(unix.TimerfdCreate(unix.CLOCK_MONOTONIC, 0))
	err = errors.Join(err, unix.TimerfdSettime(timer, 0, &unix.ItimerSpec{Value: unix.Timespec{Sec: 1000}}, nil))
	try(unix.Signalfd(-1, &unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGUSR1 - 1)}}, 0))
	try(unix.PidfdOpen(os.Getpid(), 0))
	for _, ns := range []string{"net", "mnt", "uts", "ipc"} {
		try(unix.Open("/proc/self/ns/"+ns, unix.O_RDONLY, 0))
	}
	return err
}

func allowedWatches() (err error) {
	err = errors.Join(os.MkdirAll("/tmp/deep/below", 0o755), os.WriteFile("/tmp/new", nil, 0o644))
	for _, path := range []string{"/", "/etc/config", "/tmp/new", "/tmp/deep", "/tmp/deep/below", "/volume", "/dev/null"} {
		err = errors.Join(err, addWatch(path))
	}
	if fd, ferr := unix.FanotifyInit(unix.FAN_CLASS_NOTIF, unix.O_RDONLY); ferr == nil {
		err = errors.Join(err, unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN, -1, "/volume"))
	}
	return err
}

func allowedFiles() (err error) {
	try := attempt[int](&err)
	for _, path := range []string{
		"/dev/null", "/dev/zero", "/dev/urandom", "/etc/config", "/proc/self/status", "/proc/self", "/volume", "/init",
	} {
		try(unix.Open(path, unix.O_RDONLY, 0))
	}
	try(unix.Open("/dev/kmsg", unix.O_WRONLY, 0))
	try(unix.Open("/etc", unix.O_PATH, 0))
	locked := try(unix.Open("/volume/locked", unix.O_CREAT|unix.O_RDWR, 0o600))
	err = errors.Join(err, unix.Flock(locked, unix.LOCK_EX), unix.FcntlFlock(uintptr(locked), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 10}))
	err = errors.Join(err, deleted(1<<20))
	try(unix.Open("/tmp/linked", unix.O_CREAT|unix.O_RDWR, 0o600))
	return errors.Join(err, os.Link("/tmp/linked", "/tmp/other"), os.Remove("/tmp/linked"), os.WriteFile("/tmp/linked", []byte("another"), 0o600))
}

func allowedMemory() (err error) {
	try := attempt[int](&err)
	grab := attempt[[]byte](&err)
	sealed := try(unix.MemfdCreate("sealed", unix.MFD_ALLOW_SEALING))
	err = errors.Join(err, unix.Ftruncate(sealed, 8192))
	grab(unix.Mmap(sealed, 0, 8192, unix.PROT_READ, unix.MAP_SHARED))
	_, serr := unix.FcntlInt(uintptr(sealed), unix.F_ADD_SEALS, unix.F_SEAL_GROW|unix.F_SEAL_SHRINK)
	err = errors.Join(err, serr)
	grab(unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS))
	zero := try(unix.Open("/dev/zero", unix.O_RDWR, 0))
	grab(unix.Mmap(zero, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE))
	grab(unix.Mmap(zero, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
	data := try(unix.Open("/volume/mapped", unix.O_CREAT|unix.O_RDWR, 0o600))
	err = errors.Join(err, unix.Ftruncate(data, 8192))
	grab(unix.Mmap(data, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED))
	id := try(unix.SysvShmGet(1, 8192, unix.IPC_CREAT|0o600))
	grab(unix.SysvShmAttach(id, 0, 0))
	var ring uintptr
	if _, _, e := unix.Syscall(unix.SYS_IO_SETUP, 8, uintptr(unsafe.Pointer(&ring)), 0); e != 0 && e != unix.ENOSYS {
		err = errors.Join(err, e)
	}
	return err
}

func allowedPipes() (err error) {
	try := attempt[int](&err)
	var both, closed [2]int
	err = errors.Join(unix.Pipe2(both[:], 0), unix.Pipe2(closed[:], 0), unix.Mkfifo("/tmp/fifo", 0o600), unix.Mkfifo("/volume/fifo", 0o600))
	_, werr := unix.Write(both[1], []byte("in the pipe"))
	err = errors.Join(err, werr, unix.Close(closed[1]))
	err = errors.Join(err, unix.Pipe2(closed[:], 0), unix.Close(closed[0]))
	try(unix.Open("/tmp/fifo", unix.O_RDWR, 0))
	try(unix.Open("/volume/fifo", unix.O_RDONLY|unix.O_NONBLOCK, 0)) // waits for a writer
	return err
}

func allowedInet() (err error) {
	try := attempt[int](&err)
	_, _, err = tcp(true)
	try(unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0))
	try(unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, 0))
	for _, protocol := range []int{0, unix.IPPROTO_UDPLITE} {
		fd := try(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, protocol))
		err = errors.Join(err, unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	}
	err = errors.Join(err, os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0))
	try(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP))
	try(unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP))
	try(unix.Socket(unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6))
	try(unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW))
	return err
}

func allowedUnix() (err error) {
	try := attempt[int](&err)
	pair := attempt[[2]int](&err)
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		p := pair(unix.Socketpair(unix.AF_UNIX, kind, 0))
		try(unix.Write(p[0], []byte("in the socket")))
	}
	unix.Close(pair(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0))[0])
	unix.Close(pair(unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0))[0])
	try(unixWaiting())
	for _, name := range []string{"/tmp/log", "@log"} {
		log := try(unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0))
		writer := try(unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0))
		at := &unix.SockaddrUnix{Name: name}
		err = errors.Join(err, unix.Bind(log, at), unix.Connect(writer, at))
	}
	p := pair(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0))
	carried := try(unix.Eventfd(0, 0))
	return errors.Join(err, unix.Sendmsg(p[0], []byte("x"), unix.UnixRights(carried), nil, 0))
}

func allowedOther() (err error) {
	try := attempt[int](&err)
	try(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0))
	try(unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE))
	try(routes(1))
	return errors.Join(err, unix.Close(try(queue())))
}

func allowedTerminals() error {
	_, _, err := openTerminal()
	if err != nil {
		return err
	}
	master, slave, err := openTerminal()
	if err != nil {
		return err
	}
	tty := os.NewFile(uintptr(slave), "slave")
	_, serr := spawn("idle", &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 3}, tty)
	_ = master
	return errors.Join(serr, tty.Close())
}

// allowedProcesses leaves a zombie, a pidfd of one that is gone, and one in a session of its own.
func allowedProcesses() (err error) {
	signal.Ignore(unix.SIGHUP)
	try := attempt[*os.Process](&err)
	zombie, ended := try(spawn("idle", nil)), try(spawn("idle", nil))
	try(spawn("idle", &syscall.SysProcAttr{Setsid: true}))
	try(spawn("filtered", nil))
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(ended.Pid, 0)
	_ = fd
	err = errors.Join(err, zombie.Kill(), ended.Kill())
	_, werr := ended.Wait()
	return errors.Join(err, werr)
}

// TestInspectAllowed makes one pod of all that CRIU carries.
func TestInspectAllowed(t *testing.T) {
	p := startPod(t, "allowed", nil)
	p.queues = true
	for _, l := range p.lines() {
		t.Error(l)
	}
	if err := p.dump(); err != nil {
		t.Errorf("CRIU refuses it: %v", err)
	}
}

// TestInspectTerminal: a shell that waits for its user, with the terminal's other end outside.
func TestInspectTerminal(t *testing.T) {
	p := startPod(t, "terminal-idle", nil)
	takeOut(p)
	for _, l := range p.lines() {
		t.Error(l)
	}
	if err := p.dump(); err != nil {
		t.Errorf("CRIU refuses it: %v", err)
	}
}

// TestInspectSession starts processes in the pod from outside.
func TestInspectSession(t *testing.T) {
	p := startPod(t, "idle", nil)
	cmd := exec.Command("sleep", "60")
	check(t, p.inPidNamespace(cmd.Start))
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	check(t, p.cg.Add(cmd.Process.Pid))
	want := "session process N (sleep): it was started in the pod from outside, with exec, and would not be moved"
	if got := p.lines(); len(got) != 1 || number.ReplaceAllString(got[0], "process N") != want {
		t.Errorf("got %q, want %q", got, want)
	}
	other := exec.Command("sh", "-c", "sleep 60 & wait")
	check(t, other.Start())
	t.Cleanup(func() {
		other.Process.Kill()
		other.Wait()
	})
	check(t, p.cg.Add(other.Process.Pid))
	if got := p.lines(); len(got) != 2 {
		t.Errorf("got %q, want two sessions", got)
	}
	check(t, errors.Join(cmd.Process.Kill(), other.Process.Kill()))
	cmd.Wait()
	other.Wait()
}

// TestInspectTraced attaches a debugger to a process of the pod and to a thread of it.
func TestInspectTraced(t *testing.T) {
	p := startPod(t, "idle", nil)
	threads, err := numbers(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/task", p.pid))
	check(t, err)
	for i, want := range []string{
		"traced process 1 (init): it is traced by process N of the host",
		"traced process 1 (init): one of its threads is traced by process N of the host",
	} {
		err := traced(threads[i*(len(threads)-1)], func() {
			if got := p.lines(); len(got) != 1 || got[0] != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
		check(t, err)
	}
	if got := p.lines(); len(got) > 0 {
		t.Errorf("got %q of a pod that nobody traces any more", got)
	}
}

// TestInspectPassing: what is gone a moment later does not count.
func TestInspectPassing(t *testing.T) {
	p := startPod(t, "idle", nil)
	pids, err := p.cg.Procs()
	check(t, err)
	s, err := newScan(p.pid, pids, p.stdio, p.plan())
	check(t, err)
	s.close()
	first := []finding{{code: BlockSocket, process: s.init, fd: 3, detail: "a"}, {code: BlockSocket, process: s.init, fd: 4, detail: "b"}}
	second := []finding{{code: BlockSocket, process: s.init, fd: 4, detail: "b, changed"}, {code: BlockSocket, process: s.init, fd: 5}}
	got := report(confirm(first, second))
	if len(got) != 1 || got[0].Subject != "process 1 (init), descriptor 4" || got[0].Detail != "b, changed" {
		t.Errorf("got %v", got)
	}
}

// TestInspectGone: a pod that has ended is an error, not a pod without blockers.
func TestInspectGone(t *testing.T) {
	p := startPod(t, "idle", nil)
	p.end()
	if got, err := Inspect(p.pid, p.cg, p.stdio, p.plan()); err == nil {
		t.Errorf("got %v, want an error", got)
	}
}

// TestInspectStreams: the ends of pipes that are the pod's standard streams may be outside, but only those.
func TestInspectStreams(t *testing.T) {
	p := startPod(t, "idle", nil)
	p.stdio[0] = ""
	got := p.lines()
	want := "pipe process 1 (init), descriptor 0, pipe:[N]: its other end is outside the pod: process N of the host has it"
	if len(got) != 1 || got[0] != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// BenchmarkInspect looks at a pod of some thirty processes with half a dozen threads each.
func BenchmarkInspect(b *testing.B) {
	p := startPod(b, "many", nil)
	b.ReportMetric(float64(p.count()), "processes")
	for b.Loop() {
		if found, err := Inspect(p.pid, p.cg, p.stdio, p.plan()); err != nil || len(found) > 0 {
			b.Fatal(found, err)
		}
	}
}

func (p *testPod) count() int {
	pids, err := p.cg.Procs()
	check(p.t, err)
	return len(pids)
}
