package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// queue is a way into a kernel buffer and out of it.
type queue struct {
	in  io.Writer
	out io.Reader
}

// holds puts parts into the queue, each with a write of its own, and answers with a check that takes them out, compares
// them and puts them in again.
func (q queue) holds(parts ...[]byte) (func() error, error) {
	put := func() error {
		for _, p := range parts {
			if _, err := q.in.Write(p); err != nil {
				return err
			}
		}
		return nil
	}
	return func() error {
		for i, p := range parts {
			got := make([]byte, len(p))
			if n, err := io.ReadFull(q.out, got); err != nil {
				return fmt.Errorf("part %d has %d bytes and not %d: %w", i, n, len(p), err)
			}
			if !bytes.Equal(got, p) {
				return fmt.Errorf("part %d: content changed", i)
			}
		}
		return put()
	}, put()
}

// descriptor reads and writes without the Go runtime's poller, and never waits for long.
type descriptor int

func (d descriptor) Read(p []byte) (int, error) {
	if n, err := poll([]unix.PollFd{{Fd: int32(d), Events: unix.POLLIN}}); err != nil || n != 1 {
		return 0, fmt.Errorf("nothing to read: %w", errors.Join(err, os.ErrDeadlineExceeded))
	}
	n, err := unix.Read(int(d), p)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

func (d descriptor) Write(p []byte) (int, error) { return unix.Write(int(d), p) }

func pipe() (func() error, error) {
	const capacity = 256 << 10
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	if _, err := unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, capacity); err != nil {
		return nil, os.NewSyscallError("fcntl F_SETPIPE_SZ", err)
	}
	check, err := queue{in: descriptor(p[1]), out: descriptor(p[0])}.holds(noise(9, 100_000))
	return func() error {
		now, err := unix.FcntlInt(uintptr(p[0]), unix.F_GETPIPE_SZ, 0)
		return errors.Join(err, want("capacity", now, capacity), check())
	}, err
}

func fifo() (func() error, error) {
	if err := unix.Mkfifo("/tmp/fifo", 0o600); err != nil {
		return nil, os.NewSyscallError("mkfifo", err)
	}
	fd, err := unix.Open("/tmp/fifo", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open fifo", err)
	}
	return queue{in: descriptor(fd), out: descriptor(fd)}.holds(noise(10, 30_000))
}

// produce writes numbers in order to descriptor 4 for ever; most of the time it waits for room.
func produce([]string) int {
	buf := make([]byte, 4096)
	for n := uint64(0); ; {
		for i := 0; i < len(buf); i += 8 {
			binary.NativeEndian.PutUint64(buf[i:], n)
			n++
		}
		if _, err := unix.Write(4, buf); err != nil {
			return 1
		}
	}
}

// pipeline reads what a child produces, slowly, so that the pipe is always full.
func pipeline() (func() error, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(p[1])
	if _, err := spawn("produce", uintptr(p[1])); err != nil {
		return nil, err
	}
	var read atomic.Int64
	var broken atomic.Pointer[error]
	go func() {
		buf := make([]byte, 1000*8)
		for n := uint64(0); ; time.Sleep(time.Millisecond) {
			if _, err := io.ReadFull(descriptor(p[0]), buf); err != nil {
				broken.Store(&err)
				return
			}
			for i := 0; i < len(buf); i, n = i+8, n+1 {
				if got := binary.NativeEndian.Uint64(buf[i:]); got != n {
					err := fmt.Errorf("number %d came in the place of %d", got, n)
					broken.Store(&err)
					return
				}
			}
			read.Add(1)
		}
	}()
	return func() error {
		if err := broken.Load(); err != nil {
			return *err
		}
		return grows("numbers", &read)
	}, nil
}

func socketPair() (func() error, error) {
	var checks []func() error
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("socketpair", err)
		}
		for _, way := range [][2]int{pair, {pair[1], pair[0]}} {
			check, err := queue{in: descriptor(way[0]), out: descriptor(way[1])}.holds(noise(11, 10_000), []byte("a second one"), noise(12, 300))
			if err != nil {
				return nil, err
			}
			checks = append(checks, check)
		}
	}
	return func() error {
		var errs []error
		for _, check := range checks {
			errs = append(errs, check())
		}
		return errors.Join(errs...)
	}, nil
}

// connection is both ends of a connection within the pod, with data on its way in both directions.
func connection(network, address string) (func() error, error) {
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, err
	}
	a, err := net.Dial(network, l.Addr().String())
	if err != nil {
		return nil, err
	}
	b, err := l.Accept()
	if err != nil {
		return nil, err
	}
	there, err := queue{in: a, out: deadlined{b}}.holds(noise(13, 50_000), []byte("more"))
	if err != nil {
		return nil, err
	}
	back, err := queue{in: b, out: deadlined{a}}.holds(noise(14, 20_000))
	return func() error {
		c, err := net.DialTimeout(network, l.Addr().String(), patience) // and it still listens
		if err != nil {
			return err
		}
		c.Close()
		other, err := l.Accept()
		if err != nil {
			return err
		}
		other.Close()
		return errors.Join(there(), back())
	}, err
}

// deadlined is a connection that isn't read from for long.
type deadlined struct{ net.Conn }

func (d deadlined) Read(p []byte) (int, error) {
	d.SetReadDeadline(time.Now().Add(patience))
	return d.Conn.Read(p)
}

func unixConnection() (func() error, error) { return connection("unix", "/tmp/listening.sock") }
func tcpConnection() (func() error, error)  { return connection("tcp", "127.0.0.1:0") }

func udpSocket() (func() error, error) {
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	first := conn.LocalAddr().String()
	return func() error {
		if _, err := conn.WriteTo([]byte("echo"), conn.LocalAddr()); err != nil {
			return err
		}
		buf := make([]byte, 16)
		conn.SetReadDeadline(time.Now().Add(patience))
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return err
		}
		return errors.Join(want("datagram", string(buf[:n]), "echo"), want("address", from.String(), first))
	}, nil
}
