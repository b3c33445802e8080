package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const key = 0x5a4150

func sysvShm() (func() error, error) {
	const size = 256 << 10
	id, err := unix.SysvShmGet(key, size, unix.IPC_CREAT|unix.IPC_EXCL|0o600)
	if err != nil {
		return nil, os.NewSyscallError("shmget", err)
	}
	mapped, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		return nil, os.NewSyscallError("shmat", err)
	}
	copy(mapped, noise(7, size))
	return func() error {
		again, err := unix.SysvShmGet(key, size, 0)
		if err != nil {
			return os.NewSyscallError("shmget", err)
		}
		other, err := unix.SysvShmAttach(again, 0, unix.SHM_RDONLY)
		if err != nil {
			return os.NewSyscallError("shmat", err)
		}
		defer unix.SysvShmDetach(other)
		if !bytes.Equal(other, noise(7, size)) || !bytes.Equal(mapped, other) {
			return errors.New("content changed")
		}
		return want("id", again, id)
	}, nil
}

func sysvSem() (func() error, error) {
	const getAll, setAll = 13, 17 // GETALL, SETALL
	first := [3]uint16{3, 1, 4}
	id, _, errno := unix.Syscall(unix.SYS_SEMGET, key, uintptr(len(first)), unix.IPC_CREAT|unix.IPC_EXCL|0o600)
	if errno != 0 {
		return nil, os.NewSyscallError("semget", errno)
	}
	values := first
	if _, _, errno := unix.Syscall6(unix.SYS_SEMCTL, id, 0, setAll, uintptr(unsafe.Pointer(&values)), 0, 0); errno != 0 {
		return nil, os.NewSyscallError("semctl SETALL", errno)
	}
	return func() error {
		again, _, errno := unix.Syscall(unix.SYS_SEMGET, key, 0, 0)
		if errno != 0 {
			return os.NewSyscallError("semget", errno)
		}
		var now [3]uint16
		if _, _, errno := unix.Syscall6(unix.SYS_SEMCTL, again, 0, getAll, uintptr(unsafe.Pointer(&now)), 0, 0); errno != 0 {
			return os.NewSyscallError("semctl GETALL", errno)
		}
		return errors.Join(want("id", again, id), want("values", now, first))
	}, nil
}

// message is struct msgbuf.
type message struct {
	kind int64
	text [16]byte
}

func sysvMsg() (func() error, error) {
	id, _, errno := unix.Syscall(unix.SYS_MSGGET, key, unix.IPC_CREAT|unix.IPC_EXCL|0o600, 0)
	if errno != 0 {
		return nil, os.NewSyscallError("msgget", errno)
	}
	messages := []message{{kind: 2, text: [16]byte{'t', 'w', 'o'}}, {kind: 1, text: [16]byte{'o', 'n', 'e'}}}
	send := func(m message) error {
		if _, _, errno := unix.Syscall6(unix.SYS_MSGSND, id, uintptr(unsafe.Pointer(&m)), unsafe.Sizeof(m.text), unix.IPC_NOWAIT, 0, 0); errno != 0 {
			return os.NewSyscallError("msgsnd", errno)
		}
		return nil
	}
	for _, m := range messages {
		if err := send(m); err != nil {
			return nil, err
		}
	}
	return func() error {
		for _, sent := range messages {
			var got message
			n, _, errno := unix.Syscall6(unix.SYS_MSGRCV, id, uintptr(unsafe.Pointer(&got)), unsafe.Sizeof(got.text), 0, unix.IPC_NOWAIT, 0)
			if errno != 0 {
				return os.NewSyscallError("msgrcv", errno)
			}
			if err := errors.Join(want("length", n, unsafe.Sizeof(got.text)), want("message", got, sent), send(got)); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// posixQueue has two messages, of which the later is the more urgent.
func posixQueue() (func() error, error) {
	name := append([]byte("survivor"), 0)
	attributes := [8]int64{1: 8, 2: 64} // struct mq_attr: flags, most messages, their size, current ones, room
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(&name[0])), unix.O_CREAT|unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600,
		uintptr(unsafe.Pointer(&attributes)), 0, 0)
	if errno != 0 {
		return nil, os.NewSyscallError("mq_open", errno)
	}
	send := func(text string, priority uintptr) error {
		b := []byte(text)
		if _, _, errno := unix.Syscall6(unix.SYS_MQ_TIMEDSEND, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), priority, 0, 0); errno != 0 {
			return os.NewSyscallError("mq_timedsend", errno)
		}
		return nil
	}
	receive := func() (string, error) {
		b := make([]byte, 64)
		var priority uint32
		n, _, errno := unix.Syscall6(unix.SYS_MQ_TIMEDRECEIVE, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), uintptr(unsafe.Pointer(&priority)), 0, 0)
		if errno != 0 {
			return "", os.NewSyscallError("mq_timedreceive", errno)
		}
		return fmt.Sprintf("%s at %d", b[:n], priority), nil
	}
	fill := func() error { return errors.Join(send("calm", 1), send("urgent", 9)) }
	if err := fill(); err != nil {
		return nil, err
	}
	return func() error {
		one, err := receive()
		if err != nil {
			return err
		}
		two, err := receive()
		if err != nil {
			return err
		}
		return errors.Join(want("first message", one, "urgent at 9"), want("second message", two, "calm at 1"), fill())
	}, nil
}
