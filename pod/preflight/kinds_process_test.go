package preflight

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/criu"
)

// processKinds are about processes, and what they get from outside.
var processKinds = map[string]func() error{
	"idle":              func() error { return nil },
	"allowed":           allowed,
	"working-directory": func() error { return errors.Join(unix.Fchdir(3), unix.Close(3)) },
	"pidfd-thread": func() error {
		_, err := unix.PidfdOpen(os.Getpid(), unix.O_EXCL)
		return skip("pidfd of a thread", err)
	},
	"nested-pid":    nested(unix.CLONE_NEWPID),
	"nested-net":    nested(unix.CLONE_NEWNET),
	"nested-mnt":    nested(unix.CLONE_NEWNS),
	"nested-uts":    nested(unix.CLONE_NEWUTS),
	"nested-ipc":    nested(unix.CLONE_NEWIPC),
	"nested-user":   nested(unix.CLONE_NEWUSER),
	"nested-time":   nested(unix.CLONE_NEWTIME),
	"nested-cgroup": nested(unix.CLONE_NEWCGROUP),
	"time-for-children": func() error {
		runtime.LockOSThread()
		return skip("time namespaces", unix.Unshare(unix.CLONE_NEWTIME))
	},
	"inherited": func() error { // one that two children inherit
		fd, err := unix.Fsopen("tmpfs", 0)
		if err != nil {
			return err
		}
		for range 2 {
			if _, err := spawn("idle", nil, os.NewFile(uintptr(fd), "context")); err != nil {
				return err
			}
		}
		return nil
	},
	"filtered": filtered,
	"filtered-user": func() error {
		if !criu.LacksLimits() {
			return skip("a lack of CAP_SYS_RESOURCE", unix.ENOSYS)
		}
		if err := filtered(); err != nil {
			return err
		}
		_, err := spawn("idle", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}})
		return err
	},
	"many": func() error {
		for range 30 {
			if _, err := spawn("idle", nil); err != nil {
				return err
			}
		}
		return nil
	},
	"stopped": func() error {
		p, err := spawn("idle", nil)
		if err != nil {
			return err
		}
		if err := p.Signal(unix.SIGSTOP); err != nil {
			return err
		}
		_, err = unix.Wait4(p.Pid, nil, unix.WUNTRACED, nil) // until it is
		return err
	},
	"half-dead": func() error { _, err := spawn("first-thread-ends", nil); return err },
	"first-thread-ends": func() error {
		if err := others(); err != nil {
			return err
		}
		go func() {
			for status := ""; !strings.Contains(status, "State:\tZ"); time.Sleep(time.Millisecond) {
				status, _ = readAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/task/%d/status", os.Getpid()))
			}
			fmt.Println("ready")
		}()
		runtime.Gosched()
		unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
		return nil
	},
	"terminal-idle":       func() error { return terminalPod("terminal-user") },
	"terminal-background": func() error { return terminalPod("terminal-runs") },
	"terminal-child":      func() error { return terminalPod("terminal-opened-below") },
	"terminal-user":       func() error { _, err := unix.Open("/dev/tty", unix.O_RDWR, 0); return err },
	"terminal-runs": func() error {
		tty, err := unix.Open("/dev/tty", unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		_, err = spawn("idle", &syscall.SysProcAttr{Foreground: true, Ctty: tty})
		return err
	},
	"terminal-opened-below": func() error { _, err := spawn("terminal-user", nil); return err },
	"terminals-orphaned": func() error {
		one, _, err := openTerminal()
		two, _, err2 := openTerminal()
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		return handOver(one, two)
	},
}

func nested(flag uintptr) func() error {
	return func() error {
		_, err := spawn("idle", &syscall.SysProcAttr{Cloneflags: flag})
		return err
	}
}

// others makes sure that the process has a second thread.
func others() error {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(done)
		select {}
	}()
	<-done
	return nil
}

// openTerminal makes a pseudo terminal.
func openTerminal() (master, slave int, err error) {
	if master, err = unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err != nil {
		return 0, 0, err
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return 0, 0, err
	}
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return 0, 0, err
	}
	slave, err = unix.Open(fmt.Sprintf("/dev/pts/%d", n), unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	return master, slave, err
}

// terminalPod runs a kind as leader of a session on a terminal, whose master the test then takes out of the pod: it closes
// its own ends when it is told to.
func terminalPod(kind string) error {
	master, slave, err := openTerminal()
	if err != nil {
		return err
	}
	tty := os.NewFile(uintptr(slave), "slave")
	if _, err := spawn(kind, &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 3}, tty); err != nil {
		return err
	}
	return errors.Join(tty.Close(), handOver(master))
}

// handOver names descriptors, which the test takes out of the pod, and then closes them.
func handOver(fds ...int) error {
	fmt.Println(fds)
	_, err := bufio.NewReader(os.Stdin).ReadString('\n')
	for _, fd := range fds {
		err = errors.Join(err, unix.Close(fd))
	}
	return err
}

// filtered puts a seccomp filter on all threads that lets everything through.
func filtered() error {
	const allThreads = 1 // SECCOMP_FILTER_FLAG_TSYNC
	filter := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}}
	prog := unix.SockFprog{Len: 1, Filter: &filter[0]}
	_, err := raw("seccomp", unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, allThreads, pointer(&prog))
	return err
}
