package boot

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bound is a program whose slots and addresses are known: what the child runs. Everything it points to is reached from keep in the
// parent, and the child has a copy of the parent's memory.
type bound struct {
	steps     []step
	registers []uintptr
	report    int
	trace     *trace // nil if nobody wants it
	keep      *resolver
}

// step is an operation as the child needs it.
type step struct {
	nr          uintptr
	args        [6]uintptr
	registers   uint8 // bit n: args[n] is the index of a register
	tolerant    bool
	ignore      [4]syscall.Errno
	op          uint32
	result      int32 // register, or -1
	then, other int32 // steps that follow
	store       *int32
}

// The runtime's part of a fork; package syscall uses the same. See runtime/proc.go: the names are kept for such use.
//
//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// fork makes the child, which never returns from here. From runtimeBeforeFork to runtimeAfterFork signals are blocked and the stack must
// not grow; the child may not use anything of the Go runtime at all.
//
//go:noinline
//go:norace
//go:nocheckptr
func fork(m *bound, args *cloneArgs) (int, syscall.Errno) {
	syscall.ForkLock.Lock()
	runtimeBeforeFork()
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if errno == 0 && pid == 0 {
		runtimeAfterForkInChild()
		live(m)
	}
	runtimeAfterFork()
	syscall.ForkLock.Unlock()
	return int(pid), errno
}

// live is the child's life: signals as a new process has them, then the steps.
//
//go:norace
//go:nosplit
//go:nocheckptr
func live(m *bound) {
	var action [4]uintptr // SIG_DFL, no flags, no mask
	for sig := uintptr(1); sig <= 64; sig++ {
		syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	}
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	if m.trace != nil {
		m.trace.stamp(-1)
	}
	for i := int32(0); i < int32(len(m.steps)); {
		next := take(m, i)
		if m.trace != nil {
			m.trace.stamp(i)
		}
		i = next
	}
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

// take carries out one step and returns the next one's index.
//
//go:norace
//go:nosplit
//go:nocheckptr
func take(m *bound, i int32) int32 {
	s := &m.steps[i]
	args := s.args
	for n := range args {
		if s.registers&(1<<n) != 0 {
			args[n] = m.registers[args[n]]
		}
	}
	r, errno := call(m, s, &args)
	if errno == 0 {
		if s.result >= 0 {
			m.registers[s.result] = r
		}
		if s.store != nil {
			*s.store = int32(r)
		}
		return s.then
	}
	if !s.tolerant && !ignored(s, errno) {
		tell(m, s.op, errno)
		for {
			syscall.RawSyscall(unix.SYS_EXIT_GROUP, 127, 0, 0)
		}
	}
	return s.other
}

// call makes a step's call, or does what is no call.
//
//go:norace
//go:nosplit
//go:nocheckptr
func call(m *bound, s *step, args *[6]uintptr) (uintptr, syscall.Errno) {
	switch s.nr {
	case opFail:
		return 0, syscall.Errno(args[0])
	case opReport:
		return 0, tell(m, s.op, 0)
	case opAwait:
		return await(m)
	case opExpect:
		have, want := *(*unsafe.Pointer)(unsafe.Pointer(&args[0])), *(*unsafe.Pointer)(unsafe.Pointer(&args[1]))
		for n := range args[2] {
			mask := byte(0xff)
			if args[3] != 0 {
				mask = *(*byte)(unsafe.Add(*(*unsafe.Pointer)(unsafe.Pointer(&args[3])), n))
			}
			if (*(*byte)(unsafe.Add(have, n))^*(*byte)(unsafe.Add(want, n)))&mask != 0 {
				return 0, unix.EXDEV
			}
		}
		return 0, 0
	case opLoad:
		number := *(**int32)(unsafe.Pointer(&args[0]))
		value := *number
		*number = -1
		return uintptr(value), 0
	case opOctal:
		mode, digits := **(**uint32)(unsafe.Pointer(&args[0])), *(**[4]byte)(unsafe.Pointer(&args[1]))
		for n := range digits {
			digits[n] = '0' + byte(mode>>(9-3*n)&7)
		}
		return 0, 0
	case opHas:
		if args[0] == ^uintptr(0) {
			return 0, unix.EBADF
		}
		return 0, 0
	case opBirth:
		return rebirth(m, s.op, args[0])
	}
	for {
		r, _, errno := syscall.RawSyscall6(s.nr, args[0], args[1], args[2], args[3], args[4], args[5])
		if errno != unix.EINTR {
			return r, errno
		}
	}
}

// rebirth makes another child of the parent, which goes on with the program, tells the parent its pid as a negative errno and ends.
//
//go:norace
//go:nosplit
//go:nocheckptr
func rebirth(m *bound, op uint32, args uintptr) (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall(unix.SYS_CLONE3, args, unsafe.Sizeof(cloneArgs{}), 0)
	if errno != 0 || pid == 0 {
		return 0, errno
	}
	message := report{op: op, errno: -int32(pid)}
	syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(m.report), uintptr(unsafe.Pointer(&message)), unsafe.Sizeof(message), unix.MSG_NOSIGNAL, 0, 0)
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

//go:norace
//go:nosplit
func ignored(s *step, errno syscall.Errno) bool {
	for _, e := range s.ignore {
		if e == errno {
			return true
		}
	}
	return false
}

// tell sends a report to the parent. MSG_NOSIGNAL: the parent may be gone.
//
//go:norace
//go:nosplit
//go:nocheckptr
func tell(m *bound, op uint32, errno syscall.Errno) syscall.Errno {
	message := report{op: op, errno: int32(errno)}
	_, _, failed := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(m.report), uintptr(unsafe.Pointer(&message)), unsafe.Sizeof(message),
		unix.MSG_NOSIGNAL, 0, 0)
	return failed
}

// await reads the parent's word. The end of the file means that the parent is gone, and with it the reason to go on.
//
//go:norace
//go:nosplit
//go:nocheckptr
func await(m *bound) (uintptr, syscall.Errno) {
	var word byte
	for {
		r, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(m.report), uintptr(unsafe.Pointer(&word)), 1)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return 0, errno
		case r == 0:
			return 0, unix.EPIPE
		default:
			return r, 0
		}
	}
}

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidFD, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}
