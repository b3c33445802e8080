package cgroup

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// The few calls of bpf(2) that a device program takes are made here: the library's way to load one begins with trials of what the kernel
// can, and costs more than all the rest of making a group. Constants are those of linux/bpf.h, as are the layouts.

// programName is what zap's programs are called, so that a new one can take the place of the old and of no other.
const programName = "zap_devices"

const (
	progTypeCgroupDevice = 15
	attachCgroupDevice   = 6
	infoName             = 64 // where the name is in struct bpf_prog_info
)

// bpf makes the system call with attributes.
func bpf(command int, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
		if errno == 0 {
			return int(n), nil
		}
		if errno != unix.EAGAIN && errno != unix.EINTR { // the verifier was interrupted
			return -1, errno
		}
	}
}

// loadProgram hands a device program to the kernel and returns its descriptor.
func loadProgram(insts asm.Instructions) (int, error) {
	var code bytes.Buffer
	var order binary.ByteOrder = binary.LittleEndian
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		order = binary.BigEndian
	}
	if err := insts.Marshal(&code, order); err != nil {
		return -1, fmt.Errorf("encode device program: %w", err)
	}
	text, license := code.Bytes(), []byte("Apache-2.0\x00")
	attr := struct {
		kind, count        uint32
		insts, license     uint64
		logLevel, logSize  uint32
		log                uint64
		kernel, flags      uint32
		name               [16]byte
		device, attachType uint32
	}{
		kind: progTypeCgroupDevice, count: uint32(len(text) / asm.InstructionSize),
		insts: uint64(uintptr(unsafe.Pointer(&text[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
		attachType: attachCgroupDevice,
	}
	copy(attr.name[:], programName)
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	runtime.KeepAlive(text)
	runtime.KeepAlive(license)
	if err != nil {
		return -1, fmt.Errorf("load device program: %w", err)
	}
	return fd, nil
}

// attachProgram puts a program on the group of directory dir, in the place of old unless that is -1.
func attachProgram(dir, program, old int) error {
	attr := struct{ target, program, kind, flags, replace uint32 }{
		target: uint32(dir), program: uint32(program), kind: attachCgroupDevice, flags: unix.BPF_F_ALLOW_MULTI,
	}
	if old >= 0 {
		attr.flags |= unix.BPF_F_REPLACE
		attr.replace = uint32(old)
	}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr)); err != nil {
		return fmt.Errorf("attach device program: %w", err)
	}
	return nil
}

// attachedProgram returns a descriptor of the program of zap that is on the group of directory dir, -1 when there is none.
func attachedProgram(dir int) int {
	var ids [64]uint32 // as many as a group can have
	query := struct {
		target, kind, flags, attachFlags uint32
		ids                              uint64
		count, pad                       uint32
	}{target: uint32(dir), kind: attachCgroupDevice, ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: uint32(len(ids))}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&query), unsafe.Sizeof(query))
	runtime.KeepAlive(&ids)
	if err != nil {
		return -1
	}
	for _, id := range ids[:min(int(query.count), len(ids))] {
		get := struct{ id, next, flags uint32 }{id: id}
		fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&get), unsafe.Sizeof(get))
		if err != nil {
			continue
		}
		if nameOfProgram(fd) == programName {
			return fd
		}
		unix.Close(fd)
	}
	return -1
}

func nameOfProgram(fd int) string {
	var info [infoName + 16]byte
	attr := struct {
		fd, size uint32
		info     uint64
	}{uint32(fd), uint32(len(info)), uint64(uintptr(unsafe.Pointer(&info[0])))}
	_, err := bpf(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	name := info[infoName:]
	if err != nil {
		return ""
	}
	return string(name[:max(bytes.IndexByte(name, 0), 0)])
}
