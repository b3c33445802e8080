package vdso

import "encoding/binary"

// contextSize is what isContext looks at, in bytes.
const contextSize = 24

// isContext says whether what begins with an instruction pointer is the end of the general registers in a signal's frame: the flags and the code segment follow
// (struct sigcontext_64, arch/x86/include/uapi/asm/sigcontext.h).
func isContext(b []byte) bool {
	const userCode, alwaysSet, highestFlag = 0x33, 1 << 1, 1 << 21
	flags, segments := binary.NativeEndian.Uint64(b[8:]), binary.NativeEndian.Uint64(b[16:])
	return segments&0xffff == userCode && flags&alwaysSet != 0 && flags < highestFlag<<1
}
