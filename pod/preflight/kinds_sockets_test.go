package preflight

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socketKinds open sockets that CRIU does not take.
var socketKinds = map[string]func() error{
	"mptcp":  socket(unix.AF_INET, unix.SOCK_STREAM, mptcp),
	"mptcp6": socket(unix.AF_INET6, unix.SOCK_STREAM, mptcp),
	"sctp":   socket(unix.AF_INET, unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP),
	"vsock":  socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
	"alg":    socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
	"xdp":    socket(unix.AF_XDP, unix.SOCK_RAW, 0),
	"udp-cork": func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		return errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_CORK, 1))
	},
	"tcp-waiting":  func() error { _, _, err := tcp(false); return err },
	"tcp-ulp":      tcpULP,
	"ebpf-filter":  filter,
	"netlink-data": func() error { fd, err := routes(0); return errors.Join(err, askLinks(fd)) },
	"netlink-many-groups": func() error {
		fd, err := routes(1)
		return errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, 33))
	},
	"netlink-unbound": func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC)
		return errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, 16))
	},
	"unix-identity": func() error {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			return err
		}
		_, err = unix.Write(p[1], []byte("x"))
		return errors.Join(err, unix.SetsockoptInt(p[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1))
	},
	"unix-closed-waiting": func() error {
		fd, err := unixWaiting()
		return errors.Join(err, unix.Close(fd))
	},
	"unix-sent-waiting": func() error {
		fd, err := unixWaiting()
		_, werr := unix.Write(fd, []byte("x"))
		return errors.Join(err, werr)
	},
	"unix-path": func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrUnix{Name: "/tmp/s"})
		}
		_, perr := unix.Open("/tmp/s", unix.O_PATH, 0)
		return errors.Join(err, perr)
	},
	"unix-volume":       func() error { return connectVolume(unix.SOCK_STREAM) },
	"unix-volume-dgram": func() error { return connectVolume(unix.SOCK_DGRAM) },
}

func socket(family, kind, protocol int) func() error {
	return func() error {
		_, err := unix.Socket(family, kind, protocol)
		return skip(fmt.Sprintf("socket of family %d, protocol %d", family, protocol), err)
	}
}

// tcp connects to a listener of its own, and accepts if so wanted.
func tcp(accept bool) (client, server int, err error) {
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return 0, 0, err
	}
	if err := errors.Join(unix.Bind(l, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(l, 5)); err != nil {
		return 0, 0, err
	}
	at, err := unix.Getsockname(l)
	if err != nil {
		return 0, 0, err
	}
	client, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err = errors.Join(err, unix.Connect(client, at)); err != nil || !accept {
		return client, 0, err
	}
	server, _, err = unix.Accept(l)
	return client, server, err
}

func tcpULP() error {
	_, server, err := tcp(true)
	if err != nil {
		return err
	}
	return skip("kernel TLS", unix.SetsockoptString(server, unix.IPPROTO_TCP, unix.TCP_ULP, "tls"))
}

// filter attaches an eBPF program that lets nothing pass to a socket.
func filter() error {
	insns := []uint64{0x00000000000000b7, 0x0000000000000095} // r0 = 0; exit
	license := []byte("GPL\x00")
	attr := struct {
		kind, count    uint32
		insns, license uint64
		rest           [12]uint64
	}{kind: 1, count: 2, insns: uint64(pointer(&insns[0])), license: uint64(pointer(&license[0]))}
	prog, err := raw("bpf", unix.SYS_BPF, unix.BPF_PROG_LOAD, pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return err
	}
	defer unix.Close(prog)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	return errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, prog))
}

// routes opens a bound netlink socket in multicast groups.
func routes(groups uint32) (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	return fd, errors.Join(err, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}))
}

// askLinks asks for the network devices and does not read the answer.
func askLinks(fd int) error {
	req := make([]byte, 20)
	binary.NativeEndian.PutUint32(req, 20)
	binary.NativeEndian.PutUint16(req[4:], unix.RTM_GETLINK)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	return unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// unixWaiting connects to a listener that does not accept.
func unixWaiting() (int, error) {
	l, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	at := &unix.SockaddrUnix{Name: "/tmp/listener"}
	if err = errors.Join(err, unix.Bind(l, at), unix.Listen(l, 5)); err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	return fd, errors.Join(err, unix.Connect(fd, at))
}

// connectVolume connects to a socket that the test has made in the volume.
func connectVolume(kind int) error {
	fd, err := unix.Socket(unix.AF_UNIX, kind, 0)
	return errors.Join(err, unix.Connect(fd, &unix.SockaddrUnix{Name: "/volume/outside"}))
}
