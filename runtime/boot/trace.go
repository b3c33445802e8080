package boot

import (
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Timing is how long an operation took in a child that was started with Bind.Trace.
type Timing struct {
	// Text shows the operation as Program.String does, Origin is the place that asked for it; it may be empty.
	Text, Origin string
	// Took is the time from the end of the operation before to its own. Where the child waits for its parent it is the parent's time.
	Took time.Duration
}

// trace is memory that parent and child share: when each step of the child was over.
type trace struct {
	memory []byte  // the mapping
	times  []int64 // nanoseconds on CLOCK_MONOTONIC; first when the child began; 0 for a step that was not reached
}

func newTrace(steps int) (*trace, error) {
	memory, err := unix.Mmap(-1, 0, (steps+1)*8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map memory for the trace: %w", err)
	}
	return &trace{memory, unsafe.Slice((*int64)(unsafe.Pointer(&memory[0])), steps+1)}, nil
}

func (t *trace) close() {
	if t != nil {
		_ = unix.Munmap(t.memory)
	}
}

// stamp writes down when a step was over; -1 is the child's begin. It is called in the child.
//
//go:norace
//go:nosplit
//go:nocheckptr
func (t *trace) stamp(i int32) {
	var now [2]int64
	syscall.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&now)), 0)
	t.times[i+1] = now[0]*1e9 + now[1]
}

// Trace returns how long the operations took that the child has carried out so far, in their order. Without Bind.Trace it is empty.
func (c *Child) Trace() []Timing {
	if c.trace == nil {
		return nil
	}
	var all []Timing
	before, last := c.trace.times[0], -1
	for i, at := range c.trace.times[1:] {
		if at == 0 {
			continue
		}
		op := int(c.steps[i].op)
		took := time.Duration(at - before)
		if before = at; op == last { // some operations are several calls
			all[len(all)-1].Took += took
			continue
		}
		last = op
		all = append(all, Timing{Text: c.program.opText(&c.program.Ops[op]), Origin: c.program.Ops[op].Origin, Took: took})
	}
	return all
}
