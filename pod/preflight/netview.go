package preflight

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// netView looks into the pod's network namespace.
type netView struct {
	fd     int    // a sock_diag socket in it
	cookie uint64 // its number; 0 when the kernel has none
}

// openNetView opens a socket in the network namespace of a process.
func openNetView(p *process) (*netView, error) {
	fd, err := diagSocket(p)
	if err != nil {
		return nil, fmt.Errorf("look into the network namespace of process %d: %w", p.pid, err)
	}
	v := &netView{fd: fd}
	v.cookie, _ = cookie(fd)
	return v, nil
}

func (v *netView) close() { unix.Close(v.fd) }

// has says whether a socket of this process's own is of the namespace.
func (v *netView) has(fd int) bool {
	n, err := cookie(fd)
	return err != nil || v.cookie == 0 || n == v.cookie
}

// diagSocket opens a sock_diag socket in the network namespace of p; of this thread when p is nil.
func diagSocket(p *process) (int, error) {
	open := func() (int, error) {
		return unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	}
	if p == nil {
		return open()
	}
	theirs, err := openAt(p.dir, "ns/net", unix.O_RDONLY)
	if err != nil {
		return -1, err
	}
	defer unix.Close(theirs)
	type result struct {
		fd  int
		err error
	}
	done := make(chan result)
	go func() {
		// A thread that can't go back stays locked and ends with this goroutine.
		runtime.LockOSThread()
		mine, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			done <- result{-1, err}
			return
		}
		defer unix.Close(mine)
		r := result{fd: -1, err: unix.Setns(theirs, unix.CLONE_NEWNET)}
		if r.err == nil {
			r.fd, r.err = open()
		}
		if unix.Setns(mine, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- r
	}()
	r := <-done
	return r.fd, r.err
}

// unixInfo is what sock_diag tells of a unix socket.
type unixInfo struct {
	kind, state uint8
	shutdown    uint8
	peer        uint32   // 0: none, or not accepted yet
	name        string   // "@" before an abstract one
	waiting     []uint32 // of a listening socket: who waits to be accepted, 0 for those that have closed
	unread      uint32
	unsent      uint32
}

// Attributes of unix_diag.
const (
	unixDiagName     = 0
	unixDiagPeer     = 2
	unixDiagIcons    = 3
	unixDiagRqlen    = 4
	unixDiagShutdown = 6
)

// unixSockets lists the unix sockets of the namespace of the sock_diag socket fd, by their inodes.
func unixSockets(fd int) (map[uint32]*unixInfo, error) {
	const (
		byFamily = 20                        // SOCK_DIAG_BY_FAMILY
		show     = 1<<0 | 1<<2 | 1<<3 | 1<<4 // name, peer, waiting connections, queues
		all      = 0xffffffff                // states
		length   = unix.SizeofNlMsghdr + 24  // struct unix_diag_req
	)
	req := make([]byte, length)
	binary.NativeEndian.PutUint32(req[0:], length)
	binary.NativeEndian.PutUint16(req[4:], byFamily)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	req[16] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(req[20:], all)
	binary.NativeEndian.PutUint32(req[28:], show)
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("ask for unix sockets: %w", err)
	}
	found := map[uint32]*unixInfo{}
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ask for unix sockets: %w", err)
		}
		done, err := parseUnixSockets(buf[:n], found)
		if err != nil {
			return nil, fmt.Errorf("ask for unix sockets: %w", err)
		}
		if done {
			return found, nil
		}
	}
}

// parseUnixSockets reads the messages of one answer into found and says whether they were the last.
func parseUnixSockets(data []byte, found map[uint32]*unixInfo) (done bool, err error) {
	for len(data) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(data))
		if size < unix.SizeofNlMsghdr || size > len(data) {
			return false, fmt.Errorf("a message of %d bytes in %d", size, len(data))
		}
		body := data[unix.SizeofNlMsghdr:size]
		switch kind := binary.NativeEndian.Uint16(data[4:]); kind {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(body) >= 4 {
				return false, unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
			}
			return false, fmt.Errorf("an error of %d bytes", len(body))
		}
		const header = 16 // struct unix_diag_msg
		if len(body) < header {
			return false, fmt.Errorf("a socket of %d bytes", len(body))
		}
		info := &unixInfo{kind: body[1], state: body[2]}
		found[binary.NativeEndian.Uint32(body[4:])] = info
		info.parseAttributes(body[header:])
		data = data[min(align4(size), len(data)):]
	}
	return false, nil
}

func (i *unixInfo) parseAttributes(data []byte) {
	for len(data) >= 4 {
		size, kind := int(binary.NativeEndian.Uint16(data)), binary.NativeEndian.Uint16(data[2:])
		if size < 4 || size > len(data) {
			return
		}
		value := data[4:size]
		switch {
		case kind == unixDiagName:
			i.name = socketName(value)
		case kind == unixDiagPeer && len(value) >= 4:
			i.peer = binary.NativeEndian.Uint32(value)
		case kind == unixDiagIcons:
			for ; len(value) >= 4; value = value[4:] {
				i.waiting = append(i.waiting, binary.NativeEndian.Uint32(value))
			}
		case kind == unixDiagRqlen && len(value) >= 8:
			i.unread, i.unsent = binary.NativeEndian.Uint32(value), binary.NativeEndian.Uint32(value[4:])
		case kind == unixDiagShutdown && len(value) >= 1:
			i.shutdown = value[0]
		}
		data = data[min(align4(size), len(data)):]
	}
}

// socketName makes the name of a unix socket readable.
func socketName(value []byte) string {
	if len(value) == 0 {
		return ""
	}
	if value[0] == 0 {
		quoted := strconv.Quote(string(value[1:]))
		return "@" + quoted[1:len(quoted)-1]
	}
	return unix.ByteSliceToString(value)
}

func align4(n int) int { return (n + 3) &^ 3 }
