package vdso

import "encoding/binary"

// contextSize is what isContext looks at, in bytes.
const contextSize = 16

// isContext says whether what begins with an instruction pointer is the end of the general registers in a signal's frame: the processor's state follows, which is
// that of a program (struct sigcontext, arch/arm64/include/uapi/asm/sigcontext.h).
func isContext(b []byte) bool {
	const mode = 0x1f
	state := binary.NativeEndian.Uint64(b[8:])
	return state&mode == 0 && state < 1<<32
}
