package runtime

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/boot"
)

// listenerWait bounds how long a supervisor of system calls may take to accept a listener.
const listenerWait = 10 * time.Second

// agentText is what runc says, and what its callers look for, when the supervisor can't be reached.
const agentText = "failed to connect with seccomp agent specified in the seccomp profile"

// giveListener sends the listener of a process's seccomp filter to the supervisor that the container's profile names, with the state of
// the container and of the process as the specification has it (config-linux.md, "The Container Process State").
func (c *Container) giveListener(listener *os.File, pid int, status specs.ContainerState) error {
	defer listener.Close()
	profile := c.state.Bundle.Spec.Linux.Seccomp
	state := c.hookState(status)
	data, err := json.Marshal(&specs.ContainerProcessState{
		Version: state.Version, Fds: []string{specs.SeccompFdName}, Pid: pid, Metadata: profile.ListenerMetadata, State: *state,
	})
	if err == nil {
		err = sendListener(profile.ListenerPath, data, listener)
	}
	if err != nil {
		return fmt.Errorf("send seccomp listener: %w (config.json: linux.seccomp.listenerPath)", err)
	}
	return nil
}

// logFilter writes down the flags of a filter in runc's words, which its tests look for.
func (r *Runtime) logFilter(program *boot.Program) {
	if f := program.Filter(); f != nil {
		r.log.Debug(fmt.Sprintf("seccomp filter flags: %d", f.Flags))
	}
}

// sendListener sends one message with a descriptor.
func sendListener(path string, data []byte, listener *os.File) error {
	conn, err := net.DialTimeout("unix", path, listenerWait)
	if err != nil {
		return fmt.Errorf("%s: %w", agentText, err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(listenerWait)); err != nil {
		return err
	}
	n, _, err := conn.(*net.UnixConn).WriteMsgUnix(data, unix.UnixRights(int(listener.Fd())), nil)
	if err == nil && n < len(data) { // the descriptor is there; what remains of the text follows
		_, err = conn.Write(data[n:])
	}
	return err
}
