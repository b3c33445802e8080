#include "textflag.h"

// func gangwayAddress() unsafe.Pointer
TEXT ·gangwayAddress(SB), NOSPLIT, $0-8
	MOVD $gangway<>(SB), R0
	MOVD R0, ret+0(FP)
	RET

// gangway is not called: its bytes become a program of their own, see gangway.go. It must not refer to anything of this binary.
TEXT gangway<>(SB), NOSPLIT|NOFRAME, $0
	MOVD $0x400800, R19      // parameters
	MOVWU 0(R19), R0         // fcntl(report, F_SETFD, FD_CLOEXEC)
	MOVD $2, R1
	MOVD $1, R2
	MOVD $25, R8
	SVC
	CBNZ R0, exit            // no such descriptor: the gangway was executed by way of itself
	ADD  $8, RSP, R20        // argv: first the candidates
	MOVWU 4(R19), R21        // their number
	ADD  R21<<3, R20, R22    // argv of the program
	MOVD 0(RSP), R3
	ADD  R3<<3, R20, R23
	ADD  $8, R23, R23        // environment
	MOVD $2, R24             // ENOENT, unless something says more
	MOVWU 12(R19), R25       // operation of the filter, if there is one
	CBZ  R25, try
	MOVD $1, R0              // seccomp(SECCOMP_SET_MODE_FILTER, flags, program)
	MOVWU 16(R19), R1
	ADD  $24, R19, R2
	MOVD $277, R8
	SVC
	CBZ  R0, try
	NEG  R0, R24
	B    tell

try:
	MOVD 0(R20), R0          // execve
	MOVD R22, R1
	MOVD R23, R2
	MOVD $221, R8
	SVC
	NEG  R0, R0
	CMP  $13, R0             // EACCES: remember it, try the next
	BEQ  remember
	CMP  $2, R0              // ENOENT, ENOTDIR: try the next
	BEQ  next
	CMP  $20, R0
	BEQ  next
	MOVD R0, R24
	B    report

remember:
	MOVD R0, R24

next:
	ADD  $8, R20, R20
	SUBS $1, R21, R21
	BNE  try

report:
	MOVWU 8(R19), R25        // operation

tell:
	SUB  $16, RSP, RSP
	MOVW R25, 0(RSP)
	MOVW R24, 4(RSP)         // errno
	MOVWU 0(R19), R0         // write
	MOVD RSP, R1
	MOVD $8, R2
	MOVD $64, R8
	SVC

exit:
	MOVD $127, R0            // exit_group
	MOVD $94, R8
	SVC
	BRK  $0
