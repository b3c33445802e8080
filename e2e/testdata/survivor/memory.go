package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// noise is n bytes that are the same for the same seed.
func noise(seed byte, n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	return data
}

func memFD() (func() error, error) {
	const size = 1 << 20
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW
	fd, err := unix.MemfdCreate("survivor", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	if _, err := unix.Pwrite(fd, noise(1, size), 0); err != nil {
		return nil, os.NewSyscallError("pwrite", err)
	}
	mapped, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, os.NewSyscallError("fcntl F_ADD_SEALS", err)
	}
	var marks byte
	return func() error {
		expected := noise(1, size)
		expected[0] = marks
		if marks > 0 && !bytes.Equal(mapped, expected) {
			return errors.New("content changed")
		}
		marks++
		mapped[0] = marks // and the descriptor must see it
		got := make([]byte, 1)
		if _, err := unix.Pread(fd, got, 0); err != nil || got[0] != marks {
			return fmt.Errorf("the mapping is no longer the file: %v", err)
		}
		now, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
		if err == nil && unix.Ftruncate(fd, 2*size) == nil {
			err = errors.New("it grows although it is sealed")
		}
		return errors.Join(err, want("seals", now, seals))
	}, nil
}

// memorySize is half of the size of the private memory: 16 MiB, or $SURVIVOR_MIB.
func memorySize() int {
	if n, err := strconv.Atoi(os.Getenv("SURVIVOR_MIB")); err == nil && n > 0 {
		return n << 20
	}
	return 16 << 20
}

// memory has private memory full of noise, a hole in it that was never touched, a page that can't be read, and a private
// mapping of a file with a page of its own.
func memory() (func() error, error) {
	const page = 4096
	size := memorySize()
	anonymous, err := unix.Mmap(-1, 0, 3*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	copy(anonymous, noise(2, size))
	copy(anonymous[2*size:], noise(3, size))
	if err := unix.Mprotect(anonymous[2*size:2*size+page], unix.PROT_NONE); err != nil {
		return nil, os.NewSyscallError("mprotect", err)
	}
	if err := os.WriteFile("/tmp/mapped", noise(4, 8*page), 0o644); err != nil {
		return nil, err
	}
	f, err := os.Open("/tmp/mapped")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	private, err := unix.Mmap(int(f.Fd()), 0, 8*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	copy(private[3*page:4*page], noise(5, page))
	sum := func() [32]byte {
		h := sha256.New()
		h.Write(anonymous[:2*size])
		h.Write(anonymous[2*size+page:])
		h.Write(private)
		return [32]byte(h.Sum(nil))
	}
	first, at := sum(), uintptr(unsafe.Pointer(&anonymous[0]))+uintptr(2*size)
	return func() error {
		protection, err := protectionAt(at)
		return errors.Join(err, want("protection", protection, "---p"), want("content", sum(), first))
	}, nil
}

// protectionAt is what /proc/self/maps says of an address.
func protectionAt(addr uintptr) (string, error) {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return "", err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var from, to uintptr
		var protection string
		if _, err := fmt.Sscanf(s.Text(), "%x-%x %s", &from, &to, &protection); err == nil && from <= addr && addr < to {
			return protection, nil
		}
	}
	return "", errors.New("not mapped")
}

// countUp adds one to the number at the start of the mapped file 4 whenever it is asked.
func countUp([]string) int {
	mapped, err := unix.Mmap(4, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return 1
	}
	conn := os.NewFile(3, "parent")
	for s := bufio.NewScanner(conn); s.Scan(); {
		n := binary.NativeEndian.Uint64(mapped) + 1
		binary.NativeEndian.PutUint64(mapped, n)
		fmt.Fprintln(conn, n)
	}
	return 0
}

// devShm shares a file in /dev/shm with a child; both have it mapped.
func devShm() (func() error, error) {
	f, err := os.Create("/dev/shm/survivor")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Write(noise(6, 1<<20)); err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(make([]byte, 8), 0); err != nil {
		return nil, err
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	k, err := spawn("count", f.Fd())
	if err != nil {
		return nil, err
	}
	count := uint64(0)
	return func() error {
		count++
		said, err := k.ask("count")
		if err != nil {
			return err
		}
		rest, err := os.ReadFile("/dev/shm/survivor")
		if err != nil {
			return err
		}
		if !bytes.Equal(rest[8:], noise(6, 1<<20)[8:]) {
			return errors.New("content changed")
		}
		return errors.Join(want("the child's number", said, strconv.FormatUint(count, 10)), want("our number", binary.NativeEndian.Uint64(mapped), count))
	}, nil
}
