package preflight

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// diagModule is a kernel module by which CRIU finds out what the sockets of one kind are. Without it a dump fails at the first such socket,
// with the pod frozen. There are more; for raw and netlink sockets CRIU manages without (sk-inet.c: gen_uncon_sk).
type diagModule struct {
	name             string
	family, protocol int
}

var diagModules = []diagModule{
	{"unix_diag", unix.AF_UNIX, 0},
	{"tcp_diag", unix.AF_INET, unix.IPPROTO_TCP},
	{"udp_diag", unix.AF_INET, unix.IPPROTO_UDP},
	{"af_packet_diag", unix.AF_PACKET, 0},
}

// diagFor is the module for a socket; nil when CRIU needs none, or it is not known which.
func diagFor(o options) *diagModule {
	family, protocol := o.domain, 0
	if family == unix.AF_INET || family == unix.AF_INET6 {
		family, protocol = unix.AF_INET, o.protocol
		if o.kind == unix.SOCK_RAW {
			return nil
		}
	}
	for i := range diagModules {
		if m := &diagModules[i]; m.family == family && m.protocol == protocol {
			return m
		}
	}
	return nil
}

// MissingDiag names the modules that this kernel lacks, of those by which CRIU finds out what sockets are. Asking makes it load them where it
// knows how to.
func MissingDiag() []string {
	var missing []string
	for i := range diagModules {
		if m := &diagModules[i]; !m.present() {
			missing = append(missing, m.name)
		}
	}
	return missing
}

// present asks for the sockets of the module's kind (sock_diag(7)) in this thread's namespace. Only a clear no counts.
func (m *diagModule) present() bool {
	fd, err := diagSocket(nil)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	const (
		byFamily = 20                       // SOCK_DIAG_BY_FAMILY
		length   = unix.SizeofNlMsghdr + 56 // struct inet_diag_req_v2, the longest of the requests; the rest is zero: no state wanted
	)
	req := make([]byte, length)
	binary.NativeEndian.PutUint32(req[0:], length)
	binary.NativeEndian.PutUint16(req[4:], byFamily)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	req[16], req[17] = byte(m.family), byte(m.protocol)
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return !errors.Is(err, unix.ENOENT)
	}
	answer := make([]byte, 64<<10)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil || n < unix.SizeofNlMsghdr+4 {
		return !errors.Is(err, unix.ENOENT)
	}
	code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:]))
	switch binary.NativeEndian.Uint16(answer[4:]) {
	case unix.NLMSG_ERROR, unix.NLMSG_DONE: // a dump that can't begin ends with the error
		return unix.Errno(-code) != unix.ENOENT
	}
	return true
}

// needDiag reports a socket for which CRIU lacks the module, once for each module.
func (s *scan) needDiag(about finding, o options) {
	m := diagFor(o)
	if m == nil || s.diag[m.name] {
		return
	}
	if s.diag == nil {
		s.diag = map[string]bool{}
	}
	s.diag[m.name] = true
	if m.present() {
		return
	}
	about.code, about.detail = BlockModule, "CRIU can't find out what this socket is: the kernel lacks the module "+m.name
	about.hint = "load it (modprobe " + m.name + ")"
	s.add(about)
}
