#include "textflag.h"

// func gangwayAddress() unsafe.Pointer
TEXT ·gangwayAddress(SB), NOSPLIT, $0-8
	LEAQ gangway<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// gangway is not called: its bytes become a program of their own, see gangway.go. It must not refer to anything of this binary.
TEXT gangway<>(SB), NOSPLIT|NOFRAME, $0
	MOVQ $0x400800, R9       // parameters
	MOVL 0(R9), DI           // fcntl(report, F_SETFD, FD_CLOEXEC)
	MOVL $2, SI
	MOVL $1, DX
	MOVL $72, AX
	SYSCALL
	TESTL AX, AX             // no such descriptor: the gangway was executed by way of itself
	JNE  exit
	LEAQ 8(SP), BX           // argv: first the candidates
	MOVL 4(R9), R12          // their number
	LEAQ (BX)(R12*8), R13    // argv of the program
	MOVQ 0(SP), AX
	LEAQ 16(SP)(AX*8), R14   // environment
	MOVL $2, R15             // ENOENT, unless something says more
	MOVL 12(R9), R10         // operation of the filter, if there is one
	TESTL R10, R10
	JEQ  try
	MOVL $1, DI              // seccomp(SECCOMP_SET_MODE_FILTER, flags, program)
	MOVL 16(R9), SI
	LEAQ 24(R9), DX
	MOVL $317, AX
	SYSCALL
	TESTL AX, AX
	JEQ  try
	NEGL AX
	MOVL AX, R15
	JMP  tell

try:
	MOVQ 0(BX), DI           // execve
	MOVQ R13, SI
	MOVQ R14, DX
	MOVL $59, AX
	SYSCALL
	NEGL AX
	CMPL AX, $13             // EACCES: remember it, try the next
	JEQ  remember
	CMPL AX, $2              // ENOENT, ENOTDIR: try the next
	JEQ  next
	CMPL AX, $20
	JEQ  next
	MOVL AX, R15
	JMP  report

remember:
	MOVL AX, R15

next:
	ADDQ $8, BX
	SUBL $1, R12
	JNE  try

report:
	MOVL 8(R9), R10          // operation

tell:
	SUBQ $16, SP
	MOVL R10, 0(SP)
	MOVL R15, 4(SP)          // errno
	MOVL 0(R9), DI           // write
	MOVQ SP, SI
	MOVL $8, DX
	MOVL $1, AX
	SYSCALL

exit:
	MOVL $127, DI            // exit_group
	MOVL $231, AX
	SYSCALL
	INT  $3
