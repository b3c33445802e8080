package e2e

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// lasting is a thread that lives as long as this process: the kernel takes the end of the thread that has started a child for the death of
// the child's parent, and threads that were in a namespace end earlier.
var lasting = sync.OnceValue(func() chan<- func() {
	calls := make(chan func())
	go func() {
		runtime.LockOSThread()
		for call := range calls {
			call()
		}
	}()
	return calls
})

// StartMortal is [StartChild] for a command that does not outlive this process, whatever ends it: the kernel kills the command then.
func StartMortal(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = unix.SIGKILL
	started := make(chan error, 1)
	lasting() <- func() { started <- processes.start(cmd) }
	return <-started
}
