package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// patience bounds every wait for something that should come at once; a busy machine takes a part of it.
const patience = 20 * time.Second

// kin is a child, or its child, with a line of its own to it.
type kin struct {
	pid  int
	conn *os.File
	in   *bufio.Reader
}

// spawn starts this program in another role with a socket as descriptor 3 and the files after it.
func spawn(role string, files ...uintptr) (*kin, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	pid, err := syscall.ForkExec(self, []string{"survivor", role}, &syscall.ProcAttr{
		Env: os.Environ(), Files: append([]uintptr{0, 1, 2, uintptr(pair[1])}, files...),
	})
	if err != nil {
		unix.Close(pair[0])
		return nil, fmt.Errorf("start role %s: %w", role, err)
	}
	conn := os.NewFile(uintptr(pair[0]), role)
	return &kin{pid: pid, conn: conn, in: bufio.NewReader(conn)}, nil
}

// ask sends a line and waits for the answer.
func (k *kin) ask(line string) (string, error) {
	if _, err := fmt.Fprintln(k.conn, line); err != nil {
		return "", err
	}
	type result struct {
		text string
		err  error
	}
	got := make(chan result, 1)
	go func() {
		text, err := k.in.ReadString('\n')
		got <- result{strings.TrimSpace(text), err}
	}()
	select {
	case r := <-got:
		return r.text, r.err
	case <-time.After(patience):
		return "", fmt.Errorf("process %d doesn't answer %q", k.pid, line)
	}
}

func want[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s is %v, was %v", what, got, want)
	}
	return nil
}

// statField is a field of /proc/PID/stat, counted as in proc(5).
func statField(pid, n int) (string, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	text := string(data)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < n-2 {
		return "", errors.New("short stat")
	}
	return fields[n-3], nil
}

// answer is a child that ignores SIGHUP and answers with its pid, parent and session.
func answer([]string) int {
	signal.Ignore(unix.SIGHUP)
	conn := os.NewFile(3, "parent")
	for s := bufio.NewScanner(conn); s.Scan(); {
		sid, _ := unix.Getsid(0)
		fmt.Fprintln(conn, os.Getpid(), os.Getppid(), sid)
	}
	return 0
}

func ignoresHangup() (func() error, error) {
	k, err := spawn("answer")
	if err != nil {
		return nil, err
	}
	first, err := k.ask("who")
	if err != nil {
		return nil, err
	}
	return func() error {
		if err := unix.Kill(k.pid, unix.SIGHUP); err != nil {
			return err
		}
		now, err := k.ask("who")
		if err != nil {
			return err
		}
		status, err := os.ReadFile("/proc/" + strconv.Itoa(k.pid) + "/status")
		if err != nil {
			return err
		}
		_, mask, _ := strings.Cut(string(status), "SigIgn:\t")
		bits, err := strconv.ParseUint(mask[:16], 16, 64)
		if err != nil || bits&1 == 0 {
			return fmt.Errorf("ignored signals %.16s: %v", mask, err)
		}
		return want("pid, parent and session", now, first)
	}, nil
}

// makeOrphan starts the role answer in a session of its own, hands it descriptor 3, and leaves.
func makeOrphan([]string) int {
	self, err := os.Executable()
	if err != nil {
		return 1
	}
	_, err = syscall.ForkExec(self, []string{"survivor", "answer"}, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2, 3}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 1
	}
	return 0
}

func orphan() (func() error, error) {
	k, err := spawn("orphan")
	if err != nil {
		return nil, err
	}
	var status unix.WaitStatus
	if _, err := unix.Wait4(k.pid, &status, 0, nil); err != nil || status.ExitStatus() != 0 {
		return nil, fmt.Errorf("the orphan's parent ended with %d: %v", status.ExitStatus(), err)
	}
	first, err := k.ask("who")
	if err != nil {
		return nil, err
	}
	return func() error {
		now, err := k.ask("who")
		if err != nil {
			return err
		}
		if f := strings.Fields(now); len(f) != 3 || f[1] != "1" || f[0] != f[2] {
			return fmt.Errorf("pid, parent and session are %s", now)
		}
		return want("pid, parent and session", now, first)
	}, nil
}

func zombie() (func() error, error) {
	k, err := spawn("exit7")
	if err != nil {
		return nil, err
	}
	if _, err := k.in.ReadByte(); err == nil { // the other end closes when it is dead
		return nil, errors.New("it speaks")
	}
	return func() error {
		// siginfo: si_signo, si_errno, si_code, padding, si_pid, si_uid, si_status.
		var info [32]int32
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_PID, uintptr(k.pid), uintptr(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOWAIT, 0, 0)
		if errno != 0 {
			return os.NewSyscallError("waitid", errno)
		}
		state, err := statField(k.pid, 3)
		return errors.Join(err, want("state", state, "Z"), want("exit code", info[6], 7), want("pid", int(info[4]), k.pid))
	}, nil
}

// threads are three that have a name and a nice value of their own and wait to be asked.
func threads() (func() error, error) {
	type report struct {
		tid, nice int
		name      string
	}
	ask := make([]chan chan report, 3)
	first := make([]report, len(ask))
	for i := range ask {
		ask[i] = make(chan chan report)
		go func() {
			runtime.LockOSThread()
			name := append([]byte("survivor-"+strconv.Itoa(i)), 0)
			unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
			unix.Setpriority(unix.PRIO_PROCESS, 0, i+3)
			for to := range ask[i] {
				tid := unix.Gettid()
				comm, _ := os.ReadFile(filepath.Join("/proc/self/task", strconv.Itoa(tid), "comm"))
				nice, _ := unix.Getpriority(unix.PRIO_PROCESS, 0)
				to <- report{tid, 20 - nice, strings.TrimSpace(string(comm))}
			}
		}()
	}
	one := func(i int) (report, error) {
		to := make(chan report, 1)
		ask[i] <- to
		select {
		case r := <-to:
			return r, nil
		case <-time.After(patience):
			return report{}, fmt.Errorf("thread %d doesn't answer", i)
		}
	}
	for i := range ask {
		var err error
		if first[i], err = one(i); err != nil {
			return nil, err
		}
		if first[i].nice != i+3 || first[i].name != "survivor-"+strconv.Itoa(i) {
			return nil, fmt.Errorf("thread %d is %+v", i, first[i])
		}
	}
	return func() error {
		var errs []error
		for i := range ask {
			now, err := one(i)
			errs = append(errs, err, want("thread", now, first[i]))
		}
		return errors.Join(errs...)
	}, nil
}

func pidfd() (func() error, error) {
	k, err := spawn("answer")
	if err != nil {
		return nil, err
	}
	if _, err := k.ask("who"); err != nil { // it ignores SIGHUP from now on
		return nil, err
	}
	fd, err := unix.PidfdOpen(k.pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	return func() error {
		if err := unix.PidfdSendSignal(fd, unix.SIGHUP, nil, 0); err != nil {
			return os.NewSyscallError("pidfd_send_signal", err)
		}
		info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
		if err != nil {
			return err
		}
		if !strings.Contains(string(info), "Pid:\t"+strconv.Itoa(k.pid)+"\n") {
			return fmt.Errorf("it stands for another process: %q", info)
		}
		_, err = k.ask("who")
		return err
	}, nil
}

// identity is what a process is rather than has.
func identity() (func() error, error) {
	if err := os.MkdirAll("/tmp/here", 0o755); err != nil {
		return nil, err
	}
	if err := os.Chdir("/tmp/here"); err != nil {
		return nil, err
	}
	unix.Umask(0o027)
	limit := unix.Rlimit{Cur: 333, Max: 777}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, os.NewSyscallError("setrlimit", err)
	}
	state := func() string {
		umask := unix.Umask(0o027)
		cwd, _ := os.Readlink("/proc/self/cwd")
		exe, _ := os.Readlink("/proc/self/exe")
		sid, _ := unix.Getsid(0)
		pgid, _ := unix.Getpgid(0)
		host, _ := os.Hostname()
		var l unix.Rlimit
		unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
		comm, _ := os.ReadFile("/proc/self/comm")
		args, _ := os.ReadFile("/proc/self/cmdline")
		env, _ := os.ReadFile("/proc/self/environ")
		return fmt.Sprintf("pid %d parent %d session %d group %d ids %d %d umask %o cwd %s exe %s host %s files %d %d comm %q args %q environment %q",
			os.Getpid(), os.Getppid(), sid, pgid, os.Getuid(), os.Getgid(), umask, cwd, exe, host, l.Cur, l.Max, comm, args, env)
	}
	first := state()
	return func() error { return want("identity", state(), first) }, nil
}
