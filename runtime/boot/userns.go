package boot

import (
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// MapText is a list of id mappings as /proc/PID/uid_map wants it (user_namespaces(7)).
func MapText(list []specs.LinuxIDMapping) string {
	var lines strings.Builder
	for _, e := range list {
		fmt.Fprintf(&lines, "%d %d %d\n", e.ContainerID, e.HostID, e.Size)
	}
	return lines.String()
}

// NewUserNamespace makes a user namespace with the given maps that no process is in. The one that it took to make it has ended.
func NewUserNamespace(uids, gids []specs.LinuxIDMapping) (_ *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	// It only waits, for a word that never comes: it is killed, or ends with this process, as it keeps the other end of the pair closed.
	m := &bound{report: pair[1], registers: make([]uintptr, 1)}
	m.steps = []step{
		{nr: unix.SYS_CLOSE, args: [6]uintptr{uintptr(pair[0])}, result: -1, then: 1, other: 1},
		{nr: opAwait, result: -1, then: 2, other: 2},
	}
	pid, err := m.clone(Bind{}, unix.CLONE_NEWUSER)
	if err != nil {
		return nil, err
	}
	defer func() {
		if kerr := (&Child{Pid: pid}).Kill(); err == nil {
			err = kerr
		}
	}()
	for _, f := range []struct {
		name string
		list []specs.LinuxIDMapping
	}{{"uid_map", uids}, {"gid_map", gids}} {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, f.name), []byte(MapText(f.list)), 0); err != nil {
			return nil, fmt.Errorf("map users: %w", err)
		}
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil {
		return nil, fmt.Errorf("open user namespace: %w", err)
	}
	return ns, nil
}
