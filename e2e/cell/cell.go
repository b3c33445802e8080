package cell

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Cell is the machine that a test program runs on.
type Cell struct {
	// Prepare is called on the host before the cell is made, to build what needs the network. It may be nil.
	Prepare func() error
	// Empty are directories that are empty tmpfs in the cell. They exist on the host or lie in one of Copies.
	Empty []string
	// Copies are directories that look as on the host and whose changes end with the cell.
	Copies []string
	// Zap is the environment variable that names the binary which is bound to /usr/local/bin/zap. This needs /usr/local among Copies.
	Zap string
	// Shared makes the cell's mounts shared with namespaces that are made in it, as systemd does on its hosts. podman relies on that: for
	// containers with a user namespace conmon, and what cleans up after it, lives in a mount namespace of its own.
	Shared bool
	// Legacy leaves out version 2 of cgroups where version 1 is mounted too.
	Legacy bool
	// Controllers are controllers of version 1 that are mounted in the cell when nobody else has them, as net_cls is on most machines.
	Controllers []string
}

// Stages of the program, by the environment variable of that name.
const (
	stageVariable = "ZAP_CELL"
	stageJoin     = "join"
	stageInit     = "init"
	stageTests    = "tests"
)

// Run runs the tests of m in a cell and returns the exit code. Without root it runs them where they are; they skip with Need.
func (c Cell) Run(m *testing.M) int {
	var code int
	var err error
	switch stage := os.Getenv(stageVariable); {
	case stage == stageTests:
		return m.Run()
	case stage == stageInit:
		code, err = c.init()
	case stage == stageJoin:
		code, err = c.join()
	case os.Getuid() != 0:
		return m.Run()
	default:
		code, err = c.host()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cell: %v\n", err)
		return 1
	}
	return code
}

// Need skips the test when the program does not run in a cell.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv(stageVariable) != stageTests {
		t.Skip("needs root")
	}
}

// host makes the cell's cgroups, and removes them when the tests are over.
func (c Cell) host() (int, error) {
	if c.Prepare != nil {
		if err := c.Prepare(); err != nil {
			return 0, err
		}
	}
	groups, err := makeGroups()
	if err != nil {
		return 0, err
	}
	defer groups.remove()
	cmd := again(stageJoin)
	cmd.Env = append(cmd.Env, groups.environment())
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	return wait(cmd)
}

// join joins the cell's cgroups, which become the roots of the cgroup namespace.
func (c Cell) join() (int, error) {
	dirs, err := joinGroups()
	if err != nil {
		return 0, err
	}
	if err := c.borrow(); err != nil {
		return 0, err
	}
	cmd := again(stageInit)
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS |
		unix.CLONE_NEWCGROUP
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	if err := leave(dirs); err != nil {
		return 0, err // the cell dies with this process
	}
	return wait(cmd)
}

// init furnishes the cell and takes in the orphans of the tests.
func (c Cell) init() (int, error) {
	if err := c.furnish(); err != nil {
		return 0, err
	}
	cmd := again(stageTests)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	for {
		var status unix.WaitStatus
		switch pid, err := unix.Wait4(-1, &status, 0, nil); {
		case err == unix.EINTR:
		case err != nil:
			return 0, fmt.Errorf("wait for the tests: %w", err)
		case pid == cmd.Process.Pid && status.Exited():
			c.giveBack()
			return status.ExitStatus(), nil
		case pid == cmd.Process.Pid && status.Signaled():
			return 128 + int(status.Signal()), nil
		}
	}
}

// again is this program with its arguments, as a stage. It ends with the thread that starts it, which stays with its goroutine.
func again(stage string) *exec.Cmd {
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), stageVariable+"="+stage)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

func wait(cmd *exec.Cmd) (int, error) {
	err := cmd.Wait()
	if cmd.ProcessState == nil {
		return 0, err
	}
	if s := cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
		return 0, fmt.Errorf("the tests' process: %v", s.Signal())
	}
	return cmd.ProcessState.ExitCode(), nil
}
