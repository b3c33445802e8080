package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func inotify() (func() error, error) {
	const dir = "/tmp/watched"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	watch, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE)
	if err != nil {
		return nil, os.NewSyscallError("inotify_add_watch", err)
	}
	return func() error {
		if err := os.WriteFile(dir+"/news", nil, 0o644); err != nil {
			return err
		}
		defer os.Remove(dir + "/news")
		if n, err := poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}); err != nil || n != 1 {
			return fmt.Errorf("no event: %v", err)
		}
		buf := make([]byte, 4096)
		n, err := unix.Read(fd, buf)
		if err != nil || n < unix.SizeofInotifyEvent {
			return fmt.Errorf("read %d bytes: %v", n, err)
		}
		event := (*unix.InotifyEvent)(unsafe.Pointer(&buf[0]))
		name := strings.TrimRight(string(buf[unix.SizeofInotifyEvent:n]), "\x00")
		return errors.Join(want("watch", int(event.Wd), watch), want("event", event.Mask, unix.IN_CREATE), want("name", name, "news"))
	}, nil
}

// epoll watches an eventfd, under a number of 64 bits.
func epoll() (func() error, error) {
	const low, high = 0x11223344, 0x55667788
	watched, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err := unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, watched, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: low, Pad: high}); err != nil {
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return func() error {
		events := make([]unix.EpollEvent, 2)
		if n, err := unix.EpollWait(fd, events, 0); err != nil || n != 0 {
			return fmt.Errorf("%d events before there is one: %v", n, err)
		}
		if err := addEvent(watched, 1); err != nil {
			return err
		}
		if n, err := poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}); err != nil || n != 1 {
			return fmt.Errorf("nothing to wait for: %v", err)
		}
		if n, err := unix.EpollWait(fd, events, 0); err != nil || n != 1 {
			return fmt.Errorf("%d events: %v", n, err)
		}
		_, err := takeEvent(watched)
		return errors.Join(err, want("data", [2]int32{events[0].Fd, events[0].Pad}, [2]int32{low, high}))
	}, nil
}

func addEvent(fd int, n uint64) error {
	_, err := unix.Write(fd, binary.NativeEndian.AppendUint64(nil, n))
	return os.NewSyscallError("write eventfd", err)
}

func takeEvent(fd int) (uint64, error) {
	var b [8]byte
	_, err := unix.Read(fd, b[:])
	return binary.NativeEndian.Uint64(b[:]), os.NewSyscallError("read eventfd", err)
}

func eventFD() (func() error, error) {
	const value = 42
	fd, err := unix.Eventfd(value, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return func() error {
		got, err := takeEvent(fd)
		if err != nil {
			return err
		}
		return errors.Join(want("value", got, value), addEvent(fd, value))
	}, nil
}
