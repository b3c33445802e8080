package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	virtioHeader = 10      // bytes of struct virtio_net_hdr before each frame
	frameMax     = 1 << 17 // bytes; a segment of 64 KiB with all its headers, twice
	sendBuffer   = 16 << 20
	sendPatience = 100 * time.Millisecond
)

// packetSocket is an AF_PACKET socket on one link. Frames come and go with a virtio header before
// them, which says what of their checksum and segmentation is still to be done; without it a frame
// that was held on a veth would arrive with a wrong checksum.
type packetSocket struct {
	fd   int
	link int
}

// newPacketSocket opens a socket in the calling thread's namespace. Protocol 0 receives nothing.
func newPacketSocket(link int, protocol uint16) (*packetSocket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	s := &packetSocket{fd: fd, link: link}
	err = os.NewSyscallError("setsockopt PACKET_VNET_HDR", unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1))
	if err == nil {
		err = s.bind(protocol)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open packet socket: %w", err), s.Close())
	}
	return s, nil
}

func (s *packetSocket) bind(protocol uint16) error {
	return os.NewSyscallError("bind", unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: bigEndian16(protocol), Ifindex: s.link}))
}

// Close closes the socket.
func (s *packetSocket) Close() error { return unix.Close(s.fd) }

// setBuffer sets one of the two buffers, past the system's limit where that is allowed.
func (s *packetSocket) setBuffer(force, plain, bytes int) error {
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, force, bytes) == nil {
		return nil
	}
	return os.NewSyscallError("setsockopt buffer", unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, plain, bytes))
}

// attachFilter lets only frames through that lo is sending and that carry mark.
func (s *packetSocket) attachFilter(mark uint32) error {
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipFalse: 3},
		bpf.LoadExtension{Num: extMark},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: mark, SkipFalse: 1},
		bpf.RetConstant{Val: frameMax},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(program))
	for i, p := range program {
		filter[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return os.NewSyscallError("setsockopt SO_ATTACH_FILTER", unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog))
}

// extMark is the load of a frame's mark (SKF_AD_MARK).
const extMark = bpf.Extension(20)

// send sends one frame with its virtio header. A full queue is waited for, but not for long.
func (s *packetSocket) send(frame []byte) error {
	deadline := time.Now().Add(sendPatience)
	for {
		err := unix.Sendto(s.fd, frame, unix.MSG_DONTWAIT, &unix.SockaddrLinklayer{Ifindex: s.link, Protocol: protocolOf(frame), Halen: 6})
		busy := errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EINTR)
		if !busy || time.Now().After(deadline) {
			return os.NewSyscallError("send", err)
		}
		if !errors.Is(err, unix.EINTR) {
			time.Sleep(50 * time.Microsecond)
		}
	}
}

// protocolOf returns the frame's ethertype as a packet socket address wants it.
func protocolOf(frame []byte) uint16 {
	return bigEndian16(binary.BigEndian.Uint16(frame[virtioHeader+12:]))
}

func bigEndian16(v uint16) uint16 {
	return binary.NativeEndian.Uint16([]byte{byte(v >> 8), byte(v)})
}
