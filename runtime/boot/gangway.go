package boot

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The gangway is a program of some hundred bytes between the runtime and the container's program. The child executes it first, from a sealed
// memory file, and it executes the container's program. While that second execve looks at files, /proc/self/exe is the gangway. Without it
// a container whose program is /proc/self/exe, a script that names it as its interpreter, or an ELF file that names it as its loader would
// run zap's own binary and could write to it (CVE-2019-5736). The gangway is written in assembly in gangway_*.s and made an ELF file here.

const (
	gangwayBase   = 0x400000 // where the file is mapped
	gangwayParams = 0x800    // offset of its parameters: five 32-bit numbers, and at 0x818 the struct sock_fprog of a filter
	gangwaySize   = 0x830    // and what the filter takes
	elfHeaderSize = 64
	elfEntrySize  = 56 // of the program header table
	gangwayCode   = elfHeaderSize + 2*elfEntrySize
)

// gangwayAddress returns where the gangway's code is in this process.
func gangwayAddress() unsafe.Pointer

// gangwayImage is the gangway as an ELF file. It tries the first `candidates` of its arguments as the program, with the arguments that
// follow them; if none can be executed it reports operation op on descriptor fd, which is close-on-exec from its first step on. Where that
// descriptor is not open it ends at once. With a filter it installs that before all this.
func gangwayImage(fd, candidates, op int, filter *gangwayFilter) []byte {
	size := gangwaySize
	if filter != nil {
		size += len(filter.Program) * unix.SizeofSockFilter
	}
	image := make([]byte, size)
	machine := uint16(62) // EM_X86_64
	if runtime.GOARCH == "arm64" {
		machine = 183 // EM_AARCH64
	}
	le := binary.LittleEndian
	copy(image, "\x7fELF\x02\x01\x01")
	le.PutUint16(image[16:], 2) // ET_EXEC
	le.PutUint16(image[18:], machine)
	le.PutUint32(image[20:], 1)
	le.PutUint64(image[24:], gangwayBase+gangwayCode) // entry
	le.PutUint64(image[32:], elfHeaderSize)           // program headers
	le.PutUint16(image[52:], elfHeaderSize)
	le.PutUint16(image[54:], elfEntrySize)
	le.PutUint16(image[56:], 2)
	load := image[elfHeaderSize:]
	le.PutUint32(load[0:], 1) // PT_LOAD
	le.PutUint32(load[4:], 5) // readable, executable
	le.PutUint64(load[16:], gangwayBase)
	le.PutUint64(load[24:], gangwayBase)
	le.PutUint64(load[32:], uint64(size))
	le.PutUint64(load[40:], uint64(size))
	le.PutUint64(load[48:], 0x10000) // alignment for every page size
	stack := image[elfHeaderSize+elfEntrySize:]
	le.PutUint32(stack[0:], 0x6474e551) // PT_GNU_STACK
	le.PutUint32(stack[4:], 6)          // readable, writable, not executable
	const codeSize = 0x200              // more than it is: what follows it in this binary does no harm
	copy(image[gangwayCode:], unsafe.Slice((*byte)(gangwayAddress()), codeSize))
	le.PutUint32(image[gangwayParams:], uint32(fd))
	le.PutUint32(image[gangwayParams+4:], uint32(candidates))
	le.PutUint32(image[gangwayParams+8:], uint32(op))
	if filter == nil {
		return image
	}
	le.PutUint32(image[gangwayParams+12:], uint32(filter.op)|uint32(lateFilter)<<lateShift)
	le.PutUint32(image[gangwayParams+16:], uint32(filter.Flags))
	le.PutUint16(image[gangwayParams+24:], uint16(len(filter.Program)))
	le.PutUint64(image[gangwayParams+32:], gangwayBase+gangwaySize)
	code := image[gangwaySize:]
	for i, f := range filter.Program {
		le.PutUint16(code[8*i:], f.Code)
		code[8*i+2], code[8*i+3] = f.Jt, f.Jf
		le.PutUint32(code[8*i+4:], f.K)
	}
	return image
}

// gangwayName is what the gangway is called in /proc/PID/exe and /proc/PID/fd. Tools that watch for programs that run from memory know
// this name, which is that of runc's copy of itself for the same purpose, and raise no alarm.
const gangwayName = "runc_cloned:/proc/self/exe"

// openGangway returns a descriptor of a sealed memory file with the image.
func openGangway(image []byte) (int, error) {
	const executable = 0x10 // MFD_EXEC, Linux 6.3
	fd, err := unix.MemfdCreate(gangwayName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|executable)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate(gangwayName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, fmt.Errorf("make memory file: %w", err)
	}
	if _, err := unix.Write(fd, image); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("write memory file: %w", err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("seal memory file: %w", err)
	}
	return fd, nil
}
