#include "textflag.h"

// func handlerAddress() unsafe.Pointer
TEXT ·handlerAddress(SB), NOSPLIT, $0-8
	MOVD $handler<>(SB), R0
	MOVD R0, ret+0(FP)
	RET

// func restorerAddress() unsafe.Pointer
TEXT ·restorerAddress(SB), NOSPLIT, $0-8
	MOVD $restorer<>(SB), R0
	MOVD R0, ret+0(FP)
	RET

// handler is called by the kernel with the signal in R0: write(pipeEnd, &signal, 1). The kernel restores all registers afterwards.
TEXT handler<>(SB), NOSPLIT|NOFRAME, $0
	SUB  $16, RSP
	MOVD R0, 0(RSP)
	MOVW ·pipeEnd(SB), R0
	MOVD RSP, R1
	MOVD $1, R2
	MOVD $64, R8
	SVC
	ADD  $16, RSP
	RET

// restorer is where handler returns to: rt_sigreturn.
TEXT restorer<>(SB), NOSPLIT|NOFRAME, $0
	MOVD $139, R8
	SVC
	BRK
