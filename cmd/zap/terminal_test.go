package main

import (
	"testing"
)

// TestTerminalToPipe sends what a program writes to its terminal through a pipe: as text, without carriage returns.
func TestTerminalToPipe(t *testing.T) {
	l := newOCILab(t)
	l.spec.Process.Terminal = true
	l.program("tty; tty")
	if got, _, code := l.zap("run", "piped"); got != "/dev/pts/0\n/dev/pts/0\n" || code != 0 {
		t.Errorf("zap run on a terminal that is a pipe writes %q, code %d", got, code)
	}
}
