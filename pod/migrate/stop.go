package migrate

import (
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// stopVariable names phases at which a process stops itself, as in
// ZAP_STOP_AT=source:Frozen,target:Prepared: the tests of failures let a fault
// fall into exactly one phase with it, and send SIGCONT afterwards.
const stopVariable = "ZAP_STOP_AT"

func stopAt(side string, p Phase) {
	wanted := os.Getenv(stopVariable)
	if wanted == "" {
		return
	}
	for _, w := range strings.Split(wanted, ",") {
		if w == side+":"+string(p) {
			// To this very thread, which would run on for a moment if another one took the signal.
			runtime.LockOSThread()
			_ = unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
			runtime.UnlockOSThread()
		}
	}
}
