package runtime

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// filtered adds a filter to a bundle that does something about mkdir.
func filtered(s *specs.Spec, action specs.LinuxSeccompAction, errno *uint) {
	s.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchAARCH64},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat", "no_such_call"}, Action: action, ErrnoRet: errno}},
	}
}

// eachWay runs a test with and without no_new_privs, as root and as another user: the filter is installed in different places.
func eachWay(t *testing.T, test func(t *testing.T, change func(*specs.Spec))) {
	for _, way := range []struct {
		name       string
		privileges bool
		uid        uint32
	}{
		{"no_new_privs", true, 0},
		{"no_new_privs of a user", true, 1000},
		{"privileges", false, 0},
		{"privileges of a user", false, 1000},
	} {
		t.Run(way.name, func(t *testing.T) {
			test(t, func(s *specs.Spec) {
				s.Process.NoNewPrivileges, s.Process.User.UID, s.Root.Readonly = way.privileges, way.uid, false
			})
		})
	}
}

// TestSeccompActions has the kernel carry out every action.
func TestSeccompActions(t *testing.T) {
	errno := uint(unix.ENETDOWN)
	for _, test := range []struct {
		action specs.LinuxSeccompAction
		errno  *uint
		output string
		code   int
	}{
		{specs.ActAllow, nil, "after 0", 0},
		{specs.ActLog, nil, "after 0", 0},
		{specs.ActErrno, nil, "Operation not permitted", 0},
		{specs.ActErrno, &errno, "Network is down", 0},
		{specs.ActTrace, nil, "Function not implemented", 0}, // nobody traces
		{specs.ActTrap, nil, "Bad system call", 128 + int(unix.SIGSYS)},
		{specs.ActKill, nil, "Bad system call", 128 + int(unix.SIGSYS)},
		{specs.ActKillThread, nil, "Bad system call", 128 + int(unix.SIGSYS)},
		{specs.ActKillProcess, nil, "Bad system call", 128 + int(unix.SIGSYS)},
	} {
		t.Run(strings.TrimPrefix(string(test.action), "SCMP_ACT_"), func(t *testing.T) {
			eachWay(t, func(t *testing.T, change func(*specs.Spec)) {
				l := newLab(t)
				b := l.bundle("busybox mkdir /tmp/made; code=$?; echo after $code; grep Seccomp: /proc/self/status; [ $code -lt 128 ] || exit $code")
				filtered(b.Spec, test.action, test.errno)
				change(b.Spec)
				chmodTmp(t, b.RootPath())
				out, code := l.run(b)
				if !strings.Contains(out, test.output) || code != test.code || test.action != specs.ActAllow && !strings.Contains(out, "Seccomp:\t2") {
					t.Errorf("exit code %d, want %d; output %q, want %q", code, test.code, out, test.output)
				}
			})
		})
	}
}

// chmodTmp lets other users write to /tmp.
func chmodTmp(t *testing.T, root string) {
	if err := unix.Chmod(filepath.Join(root, "tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
}

// TestSeccompNeedsLittle starts programs under profiles that allow only what a program needs itself, not what a start takes.
func TestSeccompNeedsLittle(t *testing.T) {
	eachWay(t, func(t *testing.T, change func(*specs.Spec)) {
		l := newLab(t)
		b := l.bundle("")
		b.Spec.Process.Args = []string{"/bin/echo", "little"}
		change(b.Spec)
		names := []string{
			"execve", "brk", "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64", "readlink", "readlinkat", "getrandom",
			"mprotect", "mmap", "munmap", "write", "exit_group", "fstat", "newfstatat", "getuid", "getgid", "setuid", "setgid", "prctl", "uname",
		}
		if !b.Spec.Process.NoNewPrivileges {
			names = append(names, "capset", "fcntl")
		}
		b.Spec.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActKillProcess, Syscalls: []specs.LinuxSyscall{{Names: names, Action: specs.ActAllow}},
		}
		if out, code := l.run(b); out != "little\n" || code != 0 {
			t.Errorf("exit code %d, output %q", code, out)
		}
		// And by way of the gate.
		output, input := l.pipe()
		null := devNull(t)
		c, err := l.runtime.Create(l.ctx, "gated", b, CreateOptions{Stdin: null, Stdout: input, Stderr: input})
		input.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer l.remove(c)
		if err := c.Start(l.ctx); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		if n, err := output.Read(buf); err != nil || string(buf[:n]) != "little\n" {
			t.Errorf("read %q, %v", buf[:max(n, 0)], err)
		}
	})
}

// TestSeccompRefusesStart wants an error that names the profile's part in it when the rest of a start is refused.
func TestSeccompRefusesStart(t *testing.T) {
	l := newLab(t)
	b := l.bundle("true")
	b.Spec.Process.NoNewPrivileges = false
	b.Spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"capset"}, Action: specs.ActErrno}},
	}
	const want = "set capabilities: operation not permitted (config.json: process.capabilities)"
	null := devNull(t)
	if _, err := l.runtime.Run(l.ctx, "run", b, CreateOptions{Stdin: null, Stdout: null, Stderr: null}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("run: %v", err)
	}
	c := l.create("create", b)
	if err := c.Start(l.ctx); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("start: %v", err)
	}
}

// TestSeccompExec wants a process that joins to have the container's filter, and the capabilities of its specification.
func TestSeccompExec(t *testing.T) {
	eachWay(t, func(t *testing.T, change func(*specs.Spec)) {
		l := newLab(t)
		b := l.bundle("sleep 60")
		filtered(b.Spec, specs.ActErrno, nil)
		change(b.Spec)
		chmodTmp(t, b.RootPath())
		c := l.create("exec", b)
		if err := c.Start(l.ctx); err != nil {
			t.Fatal(err)
		}
		out, _ := l.exec(c, "busybox mkdir /tmp/made; grep -e Seccomp: -e Cap /proc/self/status")
		first, _ := l.exec(c, "grep -e Seccomp: -e Cap /proc/1/status")
		if !strings.Contains(out, "Operation not permitted") || !strings.HasSuffix(out, first) || !strings.Contains(first, "Seccomp:\t2") {
			t.Errorf("%q, first process %q", out, first)
		}
		if strings.Contains(first, "CapEff:\t00000000a82") || strings.Contains(first, "CapPrm:\t000001ff") {
			t.Errorf("too many capabilities: %q", first)
		}
	})
}

// notification and response are struct seccomp_notif and seccomp_notif_resp of seccomp_unotify(2).
type notification struct {
	id         uint64
	pid, flags uint32
	number     int32
	arch       uint32
	pointer    uint64
	args       [6]uint64
}

type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// agent is a supervisor of system calls that answers all with an error.
type agent struct {
	path   string
	states chan specs.ContainerProcessState
	errs   chan error
}

func newAgent(t *testing.T) *agent {
	a := &agent{path: filepath.Join(t.TempDir(), "agent"), states: make(chan specs.ContainerProcessState, 8), errs: make(chan error, 8)}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			go func() {
				if err := a.serve(conn); err != nil {
					a.errs <- err
				}
			}()
		}
	}()
	return a
}

func (a *agent) serve(conn *net.UnixConn) error {
	defer conn.Close()
	data, control := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	n, controls, _, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		return err
	}
	messages, err := unix.ParseSocketControlMessage(control[:controls])
	if err != nil || len(messages) != 1 {
		return fmt.Errorf("%d control messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("%d descriptors, %v", len(fds), err)
	}
	defer unix.Close(fds[0])
	var state specs.ContainerProcessState
	if err := json.Unmarshal(data[:n], &state); err != nil {
		return err
	}
	a.states <- state
	for {
		poll := []unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, 20_000); err != nil && err != unix.EINTR {
			return err
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			return nil // nobody has the filter any more
		}
		var question notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&question))); errno != 0 {
			continue
		}
		answer := response{id: question.id, errno: -int32(unix.ENOMEDIUM)}
		if question.number != unix.SYS_MKDIRAT && question.number != mkdirNumber {
			answer = response{id: question.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fds[0]), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer)))
	}
}

// mkdirNumber is that of mkdir(2) on amd64; arm64 has none.
const mkdirNumber = 83

// next waits for the state that comes with a listener.
func (a *agent) next(t *testing.T) specs.ContainerProcessState {
	t.Helper()
	select {
	case s := <-a.states:
		return s
	case err := <-a.errs:
		t.Fatal(err)
	case <-time.After(10 * time.Second):
		t.Fatal("no listener came")
	}
	panic("unreachable")
}

// TestSeccompNotify has an agent answer the calls of a container's first process and of one that joins. Calls that a start makes itself are
// among them.
func TestSeccompNotify(t *testing.T) {
	eachWay(t, func(t *testing.T, change func(*specs.Spec)) {
		l, a := newLab(t), newAgent(t)
		b := l.bundle("busybox mkdir /tmp/made; echo; exec sleep 60")
		filtered(b.Spec, specs.ActNotify, nil)
		change(b.Spec)
		chmodTmp(t, b.RootPath())
		filter := b.Spec.Linux.Seccomp
		filter.ListenerPath, filter.ListenerMetadata = a.path, "some words"
		filter.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}
		filter.Syscalls[0].Names = append(filter.Syscalls[0].Names, "execve", "execveat", "openat", "open", "read", "close", "fcntl", "capset", "accept4")
		b.Spec.Annotations = map[string]string{"a": "b"}
		output, input := l.pipe()
		c, err := l.runtime.Create(l.ctx, "notify", b, CreateOptions{Stdin: devNull(t), Stdout: input, Stderr: input})
		input.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer l.remove(c)
		s := a.next(t)
		if s.Pid != c.State().Pid || s.Metadata != "some words" || len(s.Fds) != 1 || s.Fds[0] != specs.SeccompFdName || s.Version == "" ||
			s.State.Status != specs.StateCreating || s.State.ID != "notify" || s.State.Pid != s.Pid || s.State.Bundle != b.Dir ||
			s.State.Annotations["a"] != "b" {
			t.Errorf("state %+v", s)
		}
		if err := c.Start(l.ctx); err != nil {
			t.Fatal(err)
		}
		said := make([]byte, 200)
		n, err := output.Read(said)
		if err != nil || !strings.Contains(string(said[:n]), "No medium found") {
			t.Errorf("the container says %q, %v", said[:max(n, 0)], err)
		}
		out, code := l.exec(c, "busybox mkdir /tmp/made")
		if !strings.Contains(out, "No medium found") || code == 0 {
			t.Errorf("exec: %q, exit code %d", out, code)
		}
		if s := a.next(t); s.State.Status != specs.StateRunning || s.State.Pid != c.State().Pid || s.Pid == s.State.Pid {
			t.Errorf("state for exec %+v", s)
		}
	})
}

// TestSeccompNoAgent wants the creation to fail when nobody takes the listener.
func TestSeccompNoAgent(t *testing.T) {
	l := newLab(t)
	b := l.bundle("true")
	filtered(b.Spec, specs.ActNotify, nil)
	b.Spec.Linux.Seccomp.ListenerPath = filepath.Join(t.TempDir(), "nobody")
	null := devNull(t)
	_, err := l.runtime.Create(l.ctx, "nobody", b, CreateOptions{Stdin: null, Stdout: null, Stderr: null})
	for _, want := range []string{"failed to connect with seccomp agent", "(config.json: linux.seccomp.listenerPath)"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %s", err, want)
		}
	}
	if _, err := l.runtime.Load("nobody"); err == nil {
		t.Error("the container is there")
	}
}

// TestNoSecurityModule wants errors for labels and profiles where the host has no such module.
func TestNoSecurityModule(t *testing.T) {
	for want, change := range map[string]func(*specs.Spec){
		"apply AppArmor profile p: apparmor: config provided but apparmor not supported (config.json: process.apparmorProfile)": func(s *specs.Spec) {
			s.Process.ApparmorProfile = "p"
		},
		"set SELinux label l: selinux label is specified in config, but selinux is disabled or not supported (config.json: process.selinuxLabel)": func(s *specs.Spec) {
			s.Process.SelinuxLabel = "l"
		},
		"label mounts m: selinux label is specified in config, but selinux is disabled or not supported (config.json: linux.mountLabel)": func(s *specs.Spec) {
			s.Linux.MountLabel = "m"
		},
	} {
		l := newLab(t)
		b := l.bundle("true")
		change(b.Spec)
		if a, s := modules(b.Spec.Process, b.Spec.Linux); a || s {
			continue // it is there
		}
		if _, err := l.runtime.Create(l.ctx, "labelled", b, CreateOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %s", err, want)
		}
	}
}

// TestSeccompHooks wants the filter on hooks that run as a part of the container, and not on those of the host.
func TestSeccompHooks(t *testing.T) {
	eachWay(t, func(t *testing.T, change func(*specs.Spec)) {
		l := newLab(t)
		made := filepath.Join(t.TempDir(), "made")
		b := l.bundle("true")
		filtered(b.Spec, specs.ActKill, nil)
		change(b.Spec)
		b.Spec.Process.User.UID = 0 // who runs createContainer hooks may be anybody
		b.Spec.Hooks = &specs.Hooks{
			CreateContainer: shellHook("mkdir " + made),
			StartContainer:  []specs.Hook{{Path: "/bin/busybox", Args: []string{"mkdir", "/tmp/made"}}},
		}
		null := devNull(t)
		_, err := l.runtime.Run(l.ctx, "hooks", b, CreateOptions{Stdin: null, Stdout: null, Stderr: null})
		if want := "error running startContainer hook #0: signal: bad system call"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, not %s", err, want)
		}
		if err := unix.Access(made, unix.F_OK); err != nil {
			t.Errorf("the hook of the host: %v", err)
		}
	})
}
