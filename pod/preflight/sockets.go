package preflight

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// unixSocket is a unix socket that the pod has.
type unixSocket struct {
	about    finding
	passCred bool // messages come with their sender's identity, which CRIU can't read from a queue
}

// options are what CRIU looks at of an inet socket.
type options struct {
	domain, kind, protocol int
}

// lookAtSocket judges a socket, once, whoever has it.
func (s *scan) lookAtSocket(p *process, fd int, f *file) error {
	about := finding{code: BlockSocket, process: p, fd: fd}
	if s.mounts[f.mount] != nil {
		about.detail, about.hint = "CRIU can't save the path of a socket opened with O_PATH", "close it before the move"
		s.add(about)
		return nil
	}
	if s.seen[f.ino] {
		return nil
	}
	s.seen[f.ino] = true
	own, err := p.borrow(fd)
	if err != nil {
		return err
	}
	defer unix.Close(own)
	var o options
	for _, part := range []struct {
		name int
		into *int
	}{{unix.SO_DOMAIN, &o.domain}, {unix.SO_TYPE, &o.kind}, {unix.SO_PROTOCOL, &o.protocol}} {
		if *part.into, err = unix.GetsockoptInt(own, unix.SOL_SOCKET, part.name); err != nil {
			return fmt.Errorf("ask socket: %w", err)
		}
	}
	if o.domain != unix.AF_UNIX && !s.net.has(own) {
		about.detail = "it belongs to another network namespace than the pod's"
		about.hint = "close it before the move, or open it in the pod"
		s.add(about)
		return nil
	}
	s.needDiag(about, o)
	s.judgeSocket(about, own, f.ino, o)
	return nil
}

func (s *scan) judgeSocket(about finding, own int, ino uint64, o options) {
	switch o.domain {
	case unix.AF_UNIX:
		cred, _ := unix.GetsockoptInt(own, unix.SOL_SOCKET, unix.SO_PASSCRED)
		s.sockets[ino] = &unixSocket{about, cred != 0}
	case unix.AF_INET, unix.AF_INET6:
		s.judgeInet(about, own, o)
	case unix.AF_NETLINK:
		s.judgeNetlink(about, own)
	case unix.AF_PACKET:
	default:
		about.detail = fmt.Sprintf("CRIU can't save sockets of family %s", familyName(o.domain))
		about.hint = "close it before the move, or run the program without it"
		s.add(about)
		return
	}
	if err := getsockopt(own, unix.SOL_SOCKET, unix.SO_GET_FILTER, nil, new(uint32)); err != nil {
		about.detail, about.hint = "CRIU can't read its filter, an eBPF program", "run the program without it"
		s.add(about)
	}
}

// mptcp is IPPROTO_MPTCP.
const mptcp = 262

// judgeInet judges a socket of IPv4 or IPv6.
func (s *scan) judgeInet(about finding, own int, o options) {
	refuse := func(hint, detail string, args ...any) {
		about.detail, about.hint = fmt.Sprintf(detail, args...), hint
		s.add(about)
	}
	if o.kind != unix.SOCK_RAW {
		switch o.protocol {
		case unix.IPPROTO_IP, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		case mptcp:
			refuse("set net.mptcp.enabled=0 in the pod's network namespace, or GODEBUG=multipathtcp=0 for a Go program, and start it again",
				"CRIU can't save MPTCP sockets")
			return
		default:
			refuse("run the program without it", "CRIU can't save sockets of protocol %s", protocolName(o.protocol))
			return
		}
	}
	switch {
	case o.kind == unix.SOCK_DGRAM && (o.protocol == unix.IPPROTO_UDP || o.protocol == unix.IPPROTO_UDPLITE):
		if corked, err := unix.GetsockoptInt(own, unix.IPPROTO_UDP, unix.UDP_CORK); err == nil && corked != 0 {
			refuse("wait until the message is sent, or run the program without UDP_CORK", "CRIU can't save a corked UDP socket")
		}
	case o.kind == unix.SOCK_STREAM:
		s.judgeTCP(about, own)
	}
}

// judgeTCP judges a TCP socket. A listening one tells the connections that wait for accept as its unacknowledged segments.
func (s *scan) judgeTCP(about finding, own int) {
	info, err := unix.GetsockoptTCPInfo(own, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return
	}
	const listen = 10
	if info.State == listen && info.Unacked > 0 {
		about.passing, about.detail = true, fmt.Sprintf("connections wait to be accepted (%d), which CRIU can't save", info.Unacked)
		about.hint = "try again when the program has accepted them"
		s.add(about)
	}
	if ulp, err := unix.GetsockoptString(own, unix.IPPROTO_TCP, unix.TCP_ULP); err == nil && ulp != "" {
		about.detail = "CRIU can't save what the kernel does on top of TCP (" + ulp + ")"
		about.hint = "run the program without it, for instance without kernel TLS"
		s.add(about)
	}
}

// judgeNetlink judges a netlink socket.
func (s *scan) judgeNetlink(about finding, own int) {
	poll := []unix.PollFd{{Fd: int32(own), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, 0); err == nil && n > 0 && poll[0].Revents&unix.POLLIN != 0 {
		f := about
		f.passing, f.detail = true, "messages wait in it to be read, which CRIU can't save"
		f.hint = "try again when the program has read them"
		s.add(f)
	}
	var groups [256]uint32
	size := uint32(unsafe.Sizeof(groups))
	const listMemberships = 9 // NETLINK_LIST_MEMBERSHIPS
	if getsockopt(own, unix.SOL_NETLINK, listMemberships, unsafe.Pointer(&groups[0]), &size) != nil {
		return
	}
	addr, err := unix.Getsockname(own)
	a, ok := addr.(*unix.SockaddrNetlink)
	if err != nil || !ok {
		return
	}
	if about.detail = refusedGroups(groups[:min(int(size)/4, len(groups))], a.Pid != 0); about.detail != "" {
		about.hint = "run the program without these multicast groups"
		s.add(about)
	}
}

// refusedGroups says what CRIU has against the multicast groups of a netlink socket, a set of bits. The kernel shows CRIU
// the set in units of 64 groups, and CRIU takes no more than 32 groups, except that it drops the last 32 when it is in none
// of them.
func refusedGroups(groups []uint32, bound bool) string {
	member := false
	for _, g := range groups {
		member = member || g != 0
	}
	if !member {
		return ""
	}
	words := (len(groups) + 1) / 2 * 2
	if words > len(groups) || groups[words-1] == 0 {
		words--
	}
	switch {
	case words > 1:
		return "CRIU can't save a netlink socket of a protocol with more than 32 multicast groups"
	case !bound:
		return "CRIU can't save a netlink socket that is in multicast groups but was not bound"
	}
	return ""
}

func getsockopt(fd, level, name int, value unsafe.Pointer, size *uint32) error {
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(value), uintptr(unsafe.Pointer(size)), 0)
	if e != 0 {
		return e
	}
	return nil
}

// familyName names a socket family as the kernel's headers do, where it is one that programs are likely to use.
func familyName(family int) string {
	names := map[int]string{
		unix.AF_ALG: "AF_ALG (kernel cryptography)", unix.AF_VSOCK: "AF_VSOCK", unix.AF_XDP: "AF_XDP", unix.AF_CAN: "AF_CAN",
		unix.AF_TIPC: "AF_TIPC", unix.AF_BLUETOOTH: "AF_BLUETOOTH", unix.AF_KEY: "AF_KEY (IPsec)", unix.AF_SMC: "AF_SMC",
		unix.AF_RDS: "AF_RDS", unix.AF_PPPOX: "AF_PPPOX", unix.AF_KCM: "AF_KCM", unix.AF_QIPCRTR: "AF_QIPCRTR",
	}
	if n, ok := names[family]; ok {
		return n
	}
	return fmt.Sprint(family)
}

// protocolName names an IP protocol.
func protocolName(protocol int) string {
	names := map[int]string{unix.IPPROTO_SCTP: "SCTP", unix.IPPROTO_DCCP: "DCCP", 115: "L2TP", 256: "SMC"}
	if n, ok := names[protocol]; ok {
		return n
	}
	return fmt.Sprint(protocol)
}

// errNoCookie says that the kernel can't tell a socket's network namespace (before Linux 5.14).
var errNoCookie = errors.New("no network namespace cookies")

// cookie returns the number of a socket's network namespace.
func cookie(fd int) (uint64, error) {
	const netnsCookie = 71 // SO_NETNS_COOKIE
	var value uint64
	size := uint32(unsafe.Sizeof(value))
	if err := getsockopt(fd, unix.SOL_SOCKET, netnsCookie, unsafe.Pointer(&value), &size); err != nil {
		return 0, errNoCookie
	}
	return value, nil
}
