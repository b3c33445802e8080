#include "textflag.h"

// func quitAddress() unsafe.Pointer
TEXT ·quitAddress(SB), NOSPLIT, $0-8
	MOVD $quit<>(SB), R0
	MOVD R0, ret+0(FP)
	RET

// quit is a signal handler of the child: exit_group(128 + signal). It never returns, so that it needs no restorer.
TEXT quit<>(SB), NOSPLIT|NOFRAME, $0
	ADD  $128, R0
	MOVD $94, R8
	SVC
	BRK
