package criu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// maxMessage bounds one message from CRIU; the longest that it sends is an
// error text with a descriptor or two.
const maxMessage = 4 << 20

// maxFDs is how many descriptors CRIU attaches to one message at most.
const maxFDs = 16

// wire is our end of the SOCK_SEQPACKET socket that CRIU takes requests on.
type wire struct{ f *os.File }

// newWire makes a connected pair: ours, and the end that CRIU inherits.
func newWire() (*wire, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair for CRIU: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "criu-theirs")
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that deadlines work on it
		unix.Close(fds[0])
		theirs.Close()
		return nil, nil, fmt.Errorf("make socket pair for CRIU: %w", err)
	}
	return &wire{os.NewFile(uintptr(fds[0]), "criu-rpc")}, theirs, nil
}

func (w *wire) close() error { return w.f.Close() }

// send sends one message, in one packet whatever its size. io.EOF means that
// CRIU closed its end.
func (w *wire) send(m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	if err := growSendBuffer(w.f, len(data)); err != nil {
		return err
	}
	n, err := w.f.Write(data)
	if err == nil && n < len(data) {
		err = io.ErrShortWrite
	}
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
		return io.EOF
	}
	if err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	return nil
}

// growSendBuffer makes room for a packet of n bytes: one packet has to fit
// into the buffer whole.
func growSendBuffer(f *os.File, n int) error {
	const usual = 64 << 10 // fits into any default
	if n <= usual {
		return nil
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("make room for a request of %d bytes: %w", n, err)
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		// FORCE needs CAP_NET_ADMIN and passes net.core.wmem_max.
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*n) != nil {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, 2*n)
		}
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("make room for a request of %d bytes: %w", n, err)
	}
	return nil
}

// receive waits for one message. The files that came with it are the
// caller's to close. When ctx ends first its cause is returned, and nothing
// was taken from the socket. io.EOF means that CRIU closed its end.
func (w *wire) receive(ctx context.Context) (*rpc.CriuResp, []*os.File, error) {
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	if err := w.f.SetReadDeadline(time.Time{}); err != nil {
		return nil, nil, fmt.Errorf("receive reply: %w", err)
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = w.f.SetReadDeadline(time.Unix(1, 0))
		close(ended)
	})
	defer func() {
		if !stop() {
			<-ended // else it would end the next receive
		}
	}()
	data, files, err := w.packet()
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, nil, err
	}
	return decode(data, files)
}

// pending returns a message that has come already, io.EOF if there is none.
func (w *wire) pending() (*rpc.CriuResp, []*os.File, error) {
	conn, err := w.f.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("receive reply: %w", err)
	}
	var data []byte
	var files []*os.File
	var failed error
	err = conn.Control(func(fd uintptr) { data, files, failed = readPacket(int(fd)) })
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("receive reply: %w", err)
	case errors.Is(failed, unix.EAGAIN):
		return nil, nil, io.EOF
	case failed != nil:
		return nil, nil, failed
	}
	return decode(data, files)
}

func decode(data []byte, files []*os.File) (*rpc.CriuResp, []*os.File, error) {
	resp := new(rpc.CriuResp)
	if err := proto.Unmarshal(data, resp); err != nil {
		closeAll(files)
		return nil, nil, fmt.Errorf("decode reply of %d bytes: %w", len(data), err)
	}
	return resp, files, nil
}

// packet reads one whole packet, whatever its size, with its descriptors.
func (w *wire) packet() (data []byte, files []*os.File, err error) {
	conn, err := w.f.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("receive reply: %w", err)
	}
	var failed error
	err = conn.Read(func(fd uintptr) bool {
		data, files, failed = readPacket(int(fd))
		return !errors.Is(failed, unix.EAGAIN)
	})
	if err == nil {
		err = failed
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("receive reply: %w", err)
	}
	return data, files, err
}

func readPacket(fd int) ([]byte, []*os.File, error) {
	size, _, err := retryRecv(fd, nil, nil, unix.MSG_PEEK|unix.MSG_TRUNC)
	switch {
	case errors.Is(err, unix.ECONNRESET), err == nil && size == 0:
		return nil, nil, io.EOF
	case err != nil:
		return nil, nil, err
	case size > maxMessage:
		return nil, nil, fmt.Errorf("message of %d bytes, more than %d", size, maxMessage)
	}
	data := make([]byte, size)
	control := make([]byte, unix.CmsgSpace(maxFDs*4))
	n, controlLen, err := retryRecv(fd, data, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, nil, err
	}
	files, err := parseRights(control[:controlLen])
	return data[:n], files, err
}

func retryRecv(fd int, data, control []byte, flags int) (n, controlLen int, err error) {
	for {
		n, controlLen, _, _, err = unix.Recvmsg(fd, data, control, flags)
		if !errors.Is(err, unix.EINTR) {
			return n, controlLen, err
		}
	}
}

func parseRights(control []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil, fmt.Errorf("parse control message: %w", err)
	}
	var files []*os.File
	for i := range messages {
		if messages[i].Header.Type != unix.SCM_RIGHTS {
			continue
		}
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("parse descriptors: %w", err)
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "criu-passed"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
