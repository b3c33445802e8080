#include "textflag.h"

// func handlerAddress() unsafe.Pointer
TEXT ·handlerAddress(SB), NOSPLIT, $0-8
	LEAQ handler<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func restorerAddress() unsafe.Pointer
TEXT ·restorerAddress(SB), NOSPLIT, $0-8
	LEAQ restorer<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// handler is called by the kernel with the signal in DI: write(pipeEnd, &signal, 1). The kernel restores all registers afterwards.
TEXT handler<>(SB), NOSPLIT|NOFRAME, $0
	SUBQ $8, SP
	MOVQ DI, 0(SP)
	MOVL ·pipeEnd(SB), DI
	MOVQ SP, SI
	MOVL $1, DX
	MOVL $1, AX
	SYSCALL
	ADDQ $8, SP
	RET

// restorer is where handler returns to: rt_sigreturn.
TEXT restorer<>(SB), NOSPLIT|NOFRAME, $0
	MOVL $15, AX
	SYSCALL
	INT  $3
