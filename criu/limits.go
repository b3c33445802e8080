package criu

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// CRIU asks for the resource limits of each process with prlimit(2), which the
// kernel answers for processes of other users only to who has
// CAP_SYS_RESOURCE. Virtual machines and containers with a trimmed set of
// capabilities lack it even as root, and every server that drops to a user of its
// own would be out of reach. The same limits stand in /proc/PID/limits for
// everyone who may trace the process: so on such machines a session that dumps
// runs under a seccomp filter that hands these questions to zap (seccomp_unotify(2)).

// limitsListener answers the questions of one session.
type limitsListener struct {
	fd  int
	log *slog.Logger
}

// Offsets in struct seccomp_data.
const (
	seccompNr   = 0
	seccompArch = 4
	seccompArg0 = 16
	seccompArg2 = 32 // low half, on little-endian machines
)

// auditArch is AUDIT_ARCH_* of this build; empty where the filter is not written for it.
var auditArch = map[string]uint32{"amd64": 0xc000003e, "arm64": 0xc00000b7}

// LacksLimits says whether this process, and so CRIU, may not ask for the
// limits of other users' processes.
func LacksLimits() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) == 0
}

// seccomped says whether a process of the tree below root has a seccomp
// filter. CRIU could neither read nor suspend it while under one itself.
func seccomped(root int) bool {
	if root <= 0 {
		return false
	}
	for _, pid := range descendants(root) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if mode, ok := strings.CutPrefix(line, "Seccomp:"); ok && strings.TrimSpace(mode) != "0" {
				return true
			}
		}
	}
	return false
}

// installLimits puts the filter on the calling thread, for what it forks. It
// lets everything through but prlimit of another process that sets nothing.
func installLimits(arch string) (*limitsListener, error) {
	audit, known := auditArch[arch]
	if !known {
		return nil, nil
	}
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	when := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jt: skip}
	}
	program := []unix.SockFilter{
		load(seccompNr), unless(unix.SYS_PRLIMIT64, 8),
		load(seccompArch), unless(audit, 6),
		load(seccompArg0), when(0, 4),
		load(seccompArg2), unless(0, 2),
		load(seccompArg2 + 4), when(0, 1),
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER,
		uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return nil, fmt.Errorf("install seccomp filter for CRIU: %w", errno)
	}
	return &limitsListener{fd: int(fd)}, nil
}

// Structures of seccomp_unotify(2).
type (
	seccompData struct {
		nr      int32
		arch    uint32
		pointer uint64
		args    [6]uint64
	}
	seccompNotif struct {
		id    uint64
		pid   uint32
		flags uint32
		data  seccompData
	}
	seccompNotifResp struct {
		id    uint64
		val   int64
		errno int32
		flags uint32
	}
)

// serve answers until nobody is left that the filter is on.
func (l *limitsListener) serve() {
	defer unix.Close(l.fd)
	for {
		poll := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
		_, err := unix.Poll(poll, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || poll[0].Revents&unix.POLLIN == 0 {
			return
		}
		var question seccompNotif
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&question))); errno != 0 {
			continue // it has died meanwhile
		}
		answer := seccompNotifResp{id: question.id}
		if err := l.answer(&question); err != nil {
			l.log.Debug("limits for criu", "pid", question.data.args[0], "error", err.Error())
			answer.errno = -int32(unix.EPERM)
		}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&answer)))
	}
}

// answer writes the limit that was asked for where CRIU wants it.
func (l *limitsListener) answer(q *seccompNotif) error {
	pid, resource, pointer := int(int32(q.data.args[0])), int(uint32(q.data.args[1])), uintptr(q.data.args[3])
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		return err
	}
	soft, hard, err := parseLimit(text, resource)
	if err != nil {
		return err
	}
	var raw [16]byte
	binary.NativeEndian.PutUint64(raw[:8], soft)
	binary.NativeEndian.PutUint64(raw[8:], hard)
	local := []unix.Iovec{{Base: &raw[0], Len: 16}}
	remote := []unix.RemoteIovec{{Base: pointer, Len: 16}}
	_, err = unix.ProcessVMWritev(int(q.pid), local, remote, 0)
	return err
}

// parseLimit finds a resource in /proc/PID/limits (proc(5)): its lines are in
// the order of the resources' numbers.
func parseLimit(text []byte, resource int) (soft, hard uint64, err error) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := -1; lines.Scan(); n++ {
		if n != resource {
			continue
		}
		line := lines.Text()
		if len(line) < 26 {
			break
		}
		fields := strings.Fields(line[26:]) // the name takes 26 columns
		if len(fields) < 2 {
			break
		}
		if soft, err = parseLimitValue(fields[0]); err != nil {
			return 0, 0, err
		}
		hard, err = parseLimitValue(fields[1])
		return soft, hard, err
	}
	return 0, 0, fmt.Errorf("limit %d is not listed", resource)
}

func parseLimitValue(word string) (uint64, error) {
	if word == "unlimited" {
		return unix.RLIM_INFINITY, nil
	}
	return strconv.ParseUint(word, 10, 64)
}
