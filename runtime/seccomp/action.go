package seccomp

import (
	"fmt"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Action is what a filter returns for a system call, seccomp(2): an action in the upper 16 bits and its data in the lower.
type Action uint32

// The actions that no profile names but a filter returns all the same.
const (
	// refuseArch is for calls of ABIs that the profile does not have.
	refuseArch = Action(unix.SECCOMP_RET_KILL_THREAD)
	// refuseNew is for calls that are newer than the profile.
	refuseNew = Action(unix.SECCOMP_RET_ERRNO) | Action(unix.ENOSYS)
)

// Allow lets a call through.
const Allow = Action(unix.SECCOMP_RET_ALLOW)

const (
	actionMask = 0xffff0000
	dataMask   = 0x0000ffff
)

// actions are the actions of the specification. data says which of them take an errno.
var actions = [...]struct {
	name specs.LinuxSeccompAction
	ret  Action
	data bool
}{
	{specs.ActKill, unix.SECCOMP_RET_KILL_THREAD, false},
	{specs.ActKillThread, unix.SECCOMP_RET_KILL_THREAD, false},
	{specs.ActKillProcess, unix.SECCOMP_RET_KILL_PROCESS, false},
	{specs.ActTrap, unix.SECCOMP_RET_TRAP, false},
	{specs.ActErrno, unix.SECCOMP_RET_ERRNO, true},
	{specs.ActTrace, unix.SECCOMP_RET_TRACE, true},
	{specs.ActAllow, unix.SECCOMP_RET_ALLOW, false},
	{specs.ActLog, unix.SECCOMP_RET_LOG, false},
	{specs.ActNotify, unix.SECCOMP_RET_USER_NOTIF, false},
}

// parseAction turns an action of the specification and its errnoRet, EPERM where that is missing, into a filter's.
func parseAction(name specs.LinuxSeccompAction, errno *uint) (Action, error) {
	for _, a := range &actions {
		if a.name != name {
			continue
		}
		switch {
		case !a.data && errno != nil:
			return 0, fmt.Errorf("action %s takes no errno", name)
		case !a.data:
			return a.ret, nil
		case errno == nil:
			return a.ret | Action(unix.EPERM), nil
		case *errno > dataMask:
			return 0, fmt.Errorf("errno %d is more than %d", *errno, dataMask)
		}
		return a.ret | Action(*errno), nil
	}
	return 0, fmt.Errorf("unknown action %q", name)
}

// permissive says whether an action lets calls through that nobody thought of.
func (a Action) permissive() bool {
	switch a & actionMask {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		return true
	}
	return false
}

// String returns for instance "ERRNO EPERM".
func (a Action) String() string {
	switch data := a & dataMask; a & actionMask {
	case unix.SECCOMP_RET_KILL_PROCESS:
		return "KILL_PROCESS"
	case unix.SECCOMP_RET_KILL_THREAD:
		return "KILL_THREAD"
	case unix.SECCOMP_RET_TRAP:
		return "TRAP"
	case unix.SECCOMP_RET_ERRNO:
		if name := unix.ErrnoName(unix.Errno(data)); name != "" {
			return "ERRNO " + name
		}
		return "ERRNO " + strconv.Itoa(int(data))
	case unix.SECCOMP_RET_USER_NOTIF:
		return "NOTIFY"
	case unix.SECCOMP_RET_TRACE:
		return "TRACE " + strconv.Itoa(int(data))
	case unix.SECCOMP_RET_LOG:
		return "LOG"
	case unix.SECCOMP_RET_ALLOW:
		return "ALLOW"
	}
	return fmt.Sprintf("%#x", uint32(a))
}
