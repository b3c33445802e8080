package migrate

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// guard is a process that waits for the coordinator of a move: if that dies in
// the middle, the guard brings the move to its end.
type guard struct {
	cmd  *exec.Cmd
	pipe *os.File
}

// GuardDescriptor is where the guard process finds its end of the pipe.
const GuardDescriptor = 3

// startGuard starts the guard of a pod's move: this program's hidden verb.
func startGuard(root, name string) (*guard, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", "--root", root, "guard", name)
	cmd.ExtraFiles = []*os.File{r}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("start guard: %w", err)
	}
	// Its own start is nobody's hurry: what the move does goes first.
	_ = unix.Setpriority(unix.PRIO_PROCESS, cmd.Process.Pid, guardNice)
	return &guard{cmd: cmd, pipe: w}, nil
}

// guardNice is the nice value of a guard that waits (setpriority(2)).
const guardNice = 19

// release tells the guard that the move is over and waits for its end, which is
// helped along: it has the time of nobody else.
func (g *guard) release() error {
	if g == nil || g.pipe == nil {
		return nil
	}
	_, err := g.pipe.Write([]byte{1})
	g.pipe.Close()
	g.pipe = nil
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
	return err
}

// close leaves the guard to its work: it takes over now.
func (g *guard) close() {
	if g.pipe != nil {
		g.pipe.Close()
		g.pipe = nil
	}
}

// AwaitCoordinator is the guard's wait. It reports whether the coordinator
// died and the guard has to take over, which then is urgent.
func AwaitCoordinator(pipe *os.File) bool {
	var b [1]byte
	if _, err := io.ReadFull(pipe, b[:]); err == nil {
		return false
	}
	threads, _ := os.ReadDir("/proc/self/task")
	for _, t := range threads {
		if id, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, id, 0) // else it is slower
		}
	}
	return true
}
