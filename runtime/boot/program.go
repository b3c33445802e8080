package boot

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/seccomp"
)

// Program is the work of a child process between its birth and its execve. Compile and CompileExec build it; it can be started
// any number of times.
type Program struct {
	// Ops run in order, except where Then or Else say otherwise.
	Ops []Op
	// CloneFlags are the namespaces that the child is born into: CLONE_NEWPID, CLONE_NEWUSER.
	CloneFlags uint64

	slots     []string // names of the descriptors that the program expects
	passed    []bool   // whether a slot is still open when the program ends
	registers []string
	idmaps    []IDMap
	exec      execPlan
	reborn    bool // it has an opBirth

	filter        *seccomp.Filter // the one that is installed anywhere
	gangwayFilter *gangwayFilter
}

// Op is one operation: a system call, its arguments and what its result means.
type Op struct {
	// Nr is the number of the system call, or one of the op… constants for what the child's loop does itself.
	Nr uintptr
	// Args are the call's arguments, six at most; the kernel sees zero in place of those that are missing.
	Args []Arg
	// Result is the register that takes the result of a successful call; -1 for none.
	Result int
	// Ignore are the errors that do not fail the program.
	Ignore []unix.Errno
	// Tolerant makes no error at all fail the program.
	Tolerant bool
	// Then is the index of the operation that follows success, Else of the one that follows an ignored error; 0 is the next one.
	// Both lead forward only.
	Then, Else int
	// Store, when set, takes the result too: for calls that want a descriptor in memory.
	Store *int32
	// What says what the operation is for, as `verb object`.
	What string
	// Mark is the name of the event that the operation is to the parent, What when it is empty; Place is the index of the mount that it is
	// about.
	Mark  string
	Place int
	// Origin is the place that asked for it, such as "config.json: mounts[3]"; it may be empty.
	Origin string
	// Hint says what the user can do when it fails with one of the errors HintFor; it may be empty.
	Hint    string
	HintFor []unix.Errno

	late late
}

// Numbers of the operations that the child's loop carries out itself. They are no system calls.
const (
	opFail   = ^uintptr(0) - iota // fails with the errno in Args[0]
	opClose                       // closes every descriptor but those that are still needed; Args[0] is 1 when that is only the passed ones
	opReport                      // tells the parent that this operation was reached
	opAwait                       // waits for the parent's word to go on
	opExpect                      // fails with EXDEV unless the bytes at Args[0] are those at Args[1]; Args[2] is their number, Args[3] may mask them
	opHas                         // fails with EBADF unless the register in Args[0] has a result
	opBirth                       // has the rest done by a new child of the parent; Args[0] are its cloneArgs
	opFilter                      // installs the seccomp filter, which the gangway does
	opExec                        // the execve of the container's program, by way of the gangway
	opLoad                        // is the 32-bit number at Args[0], which becomes -1
	opOctal                       // writes the permission bits of the 32-bit mode at Args[0] as four octal digits to Args[1]
)

// argKind says how an argument gets its value.
type argKind uint8

const (
	argNumber   argKind = iota // Value
	argMemory                  // the address mem
	argRegister                // the content of register Value
	argSlot                    // the descriptor bound to slot Value
)

// Arg is one argument of a system call.
type Arg struct {
	// Value is the number itself, or the index of a register or slot.
	Value uintptr

	kind  argKind
	mem   unsafe.Pointer              // stays where it is as long as the program lives
	names *names                      // symbols for a number
	show  func(unsafe.Pointer) string // text for memory
}

// number is a plain argument.
func number[T ~int | ~int32 | ~int64 | ~uint32 | ~uint64 | ~uintptr](n T) Arg {
	return Arg{Value: uintptr(n)}
}

// symbol is a number that String shows by name.
func symbol[T ~int | ~int32 | ~int64 | ~uint32 | ~uint64 | ~uintptr](n T, table *names) Arg {
	return Arg{Value: uintptr(n), names: table}
}

// text is a string with the zero byte that the kernel wants.
func text(s string) Arg {
	b := make([]byte, len(s)+1)
	copy(b, s)
	return Arg{kind: argMemory, mem: unsafe.Pointer(&b[0]), show: showString}
}

// memory is the address of a value of any type; show describes it.
func memory[T any](v *T, show func(unsafe.Pointer) string) Arg {
	return Arg{kind: argMemory, mem: unsafe.Pointer(v), show: show}
}

// null is a nil pointer.
func null() Arg { return Arg{names: namesNull} }

// cwd is AT_FDCWD.
func cwd() Arg { return symbol(uintptr(atFDCWD), namesDir) }

// atFDCWD is AT_FDCWD (-100) as the kernel reads it, an int in a 64-bit register.
const atFDCWD = ^uintptr(99)

// Slots returns the names of the descriptors that Start has to be given.
func (p *Program) Slots() []string { return p.slots }
