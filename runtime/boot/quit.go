package boot

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// quitAddress is where the code of quit is.
func quitAddress() unsafe.Pointer

// quitSignals are those that end a container that was created and not started, whoever sends them.
var quitSignals = []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM}

var namesSignal = &names{exact: true, list: []name{
	{uintptr(unix.SIGHUP), "SIGHUP"}, {uintptr(unix.SIGINT), "SIGINT"}, {uintptr(unix.SIGQUIT), "SIGQUIT"}, {uintptr(unix.SIGTERM), "SIGTERM"},
}}

// signalAction is the kernel's struct sigaction.
type signalAction struct {
	handler, flags, restorer uintptr
	_                        uint64 // its mask: nothing is blocked while it runs
}

// quitOnSignals lets the child end when it gets a signal that asks for that. The first process of a pid namespace is deaf to all that it
// has no handler for, and `zap kill`, which knows that, is not the only one to send signals: there are pidfds. execve sets the handlers back.
func (c *compiler) quitOnSignals() {
	c.on("end on signals", "")
	const restorer = 0x04000000 // SA_RESTORER: x86 delivers no signal without one, even if it is never called
	address := uintptr(quitAddress())
	action := &signalAction{handler: address, flags: restorer, restorer: address}
	for _, sig := range quitSignals {
		c.do(unix.SYS_RT_SIGACTION, symbol(uintptr(sig), namesSignal), memory(action, func(unsafe.Pointer) string { return "{quit}" }), null(), number(8))
	}
}
