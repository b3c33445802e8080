package criu

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"runtime"
)

// trialCode is, per architecture, the machine code of: fork, then wait for
// signals for ever. It needs no library and no stack.
var trialCode = map[string]struct {
	machine elf.Machine
	words   []byte
}{
	"amd64": {elf.EM_X86_64, []byte{
		0xb8, 57, 0, 0, 0, // mov eax, fork
		0x0f, 0x05, // syscall
		0xb8, 34, 0, 0, 0, // loop: mov eax, pause
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp loop
	}},
	"arm64": {elf.EM_AARCH64, words(
		movz(8, 220), movz(0, 17), movz(1, 0), movz(2, 0), movz(3, 0), movz(4, 0), // clone(SIGCHLD)
		0xd4000001,                                                              // svc 0
		movz(8, 73), movz(0, 0), movz(1, 0), movz(2, 0), movz(3, 0), movz(4, 0), // ppoll(nil, 0, nil, nil)
		0xd4000001, // svc 0
		0x17fffff9, // b -7
	)},
}

func movz(register, value uint32) uint32 { return 0xd2800000 | value<<5 | register }

func words(list ...uint32) []byte {
	var b []byte
	for _, w := range list {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	return b
}

// trialProgram returns a whole static executable for this architecture, or
// nil where there is none.
func trialProgram() []byte {
	code, ok := trialCode[runtime.GOARCH]
	if !ok {
		return nil
	}
	const base, headers = 0x400000, 64 + 56
	size := uint64(headers + len(code.words))
	h := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(code.machine), Version: uint32(elf.EV_CURRENT),
		Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	h.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	p := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
		Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 4096,
	}
	var b bytes.Buffer
	for _, part := range []any{h, p, code.words} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			return nil // fixed-size values into memory
		}
	}
	return b.Bytes()
}
