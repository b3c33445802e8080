package boot

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Bind is what a program gets from its parent.
type Bind struct {
	// Slots maps the names of Program.Slots to descriptors. The standard streams, "stdin", "stdout" and "stderr", are the caller's own when
	// they are missing.
	Slots map[string]int
	// PIDNamespace, when set, is the pid namespace that the child is born into.
	PIDNamespace *os.File
	// Cgroup, when not 0, is a descriptor of a cgroup v2 directory that the child is born into.
	Cgroup int
	// Preserve is the number of descriptors from 3 on that the container's program inherits.
	Preserve int
	// Dumpable lets those who may trace this process look at the child too. A user without privileges has to be able to, or the child's
	// id maps can't be written.
	Dumpable bool
	// Trace has the child write down when each operation is over, for Child.Trace.
	Trace bool
}

// birth keeps two children from being born at the same time: the process's dumpable flag is set aside meanwhile.
var birth sync.Mutex

// Start begins the program in a new child process and returns when the child exists. The caller has to call Child.Close, and is the
// parent that has to wait for Child.Pid.
func (p *Program) Start(b Bind) (*Child, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	defer unix.Close(pair[1])
	child := &Child{program: p}
	bound, stub, err := p.bind(b, pair[1])
	if err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	defer unix.Close(stub)
	if b.Trace {
		if child.trace, err = newTrace(len(bound.steps)); err != nil {
			unix.Close(pair[0])
			return nil, err
		}
		bound.trace, child.steps = child.trace, bound.steps
	}
	child.Pid, err = bound.clone(b, p.CloneFlags)
	runtime.KeepAlive(p)
	if err != nil {
		unix.Close(pair[0])
		return nil, err
	}
	if err := unix.SetNonblock(pair[0], true); err != nil {
		unix.Close(pair[0])
		return nil, errors.Join(fmt.Errorf("watch child %d: %w", child.Pid, err), child.Kill())
	}
	child.sync = os.NewFile(uintptr(pair[0]), "child")
	if p.reborn {
		if err := child.awaitBirth(); err != nil {
			_ = child.Kill() // it may have ended by itself
			return nil, errors.Join(err, child.Close())
		}
	}
	return child, nil
}

// bind resolves slots and addresses. It returns the descriptor of the gangway for the caller to close.
func (p *Program) bind(b Bind, report int) (*bound, int, error) {
	slots := make([]int, len(p.slots))
	for i, name := range p.slots {
		fd, ok := b.Slots[name]
		if !ok {
			switch name {
			case "stdin", "stdout", "stderr":
				fd = slices.Index([]string{"stdin", "stdout", "stderr"}, name)
			case slotSync:
				fd = report
			case slotStub:
				continue
			default:
				return nil, -1, fmt.Errorf("start program: no descriptor for %s", name)
			}
		}
		slots[i] = fd
	}
	execOp := len(p.Ops) - 1
	stub, err := openGangway(gangwayImage(report, len(p.exec.candidates), execOp, p.gangwayFilter))
	if err != nil {
		return nil, -1, err
	}
	slots[slices.Index(p.slots, slotStub)] = stub
	r := &resolver{
		p: p, slots: slots, report: report, stub: stub, preserve: b.Preserve,
		out: &bound{steps: make([]step, 0, len(p.Ops)+16), report: report},
	}
	r.resolve()
	return r.out, stub, nil
}

// clone makes the child. In the parent it returns the child's pid.
func (m *bound) clone(b Bind, flags uint64) (int, error) {
	args := &cloneArgs{flags: flags, exitSignal: uint64(unix.SIGCHLD)}
	if b.Cgroup != 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(b.Cgroup)
	}
	birth.Lock()
	defer birth.Unlock()
	runtime.LockOSThread()
	leave, err := enterPIDNamespace(b.PIDNamespace)
	if err != nil {
		runtime.UnlockOSThread()
		return 0, err
	}
	// A process in the container's pid namespace may look at the child from its first moment on: it must not get at zap's binary.
	dumpable, _, _ := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_GET_DUMPABLE, 0, 0, 0, 0, 0)
	if !b.Dumpable {
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	pid, errno := fork(m, args)
	if dumpable == 1 {
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	}
	if leave() == nil {
		runtime.UnlockOSThread() // otherwise the thread ends with its goroutine
	}
	if errno != 0 {
		return 0, fmt.Errorf("clone child: %w", errno)
	}
	return pid, nil
}

// enterPIDNamespace has this thread's next child born into a pid namespace. The function it returns undoes that.
func enterPIDNamespace(ns *os.File) (leave func() error, err error) {
	if ns == nil {
		return func() error { return nil }, nil
	}
	own, err := unix.Open("/proc/thread-self/ns/pid_for_children", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open own pid namespace: %w", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWPID); err != nil {
		unix.Close(own)
		return nil, fmt.Errorf("join pid namespace %s: %w", ns.Name(), err)
	}
	return func() error {
		defer unix.Close(own)
		return unix.Setns(own, unix.CLONE_NEWPID)
	}, nil
}

// resolver turns operations into steps.
type resolver struct {
	p            *Program
	slots        []int
	report, stub int
	preserve     int
	out          *bound
	first        []int32 // index of the first step of each operation
	argv, envp   []*byte
	path         []byte // of the gangway, empty for its descriptor
}

func (r *resolver) resolve() {
	r.first = make([]int32, len(r.p.Ops)+1)
	for i := range r.p.Ops {
		r.first[i] = int32(len(r.out.steps))
		r.operation(i)
	}
	r.first[len(r.p.Ops)] = int32(len(r.out.steps))
	for i := range r.out.steps {
		s := &r.out.steps[i]
		s.then, s.other = r.jump(s.then, i), r.jump(s.other, i)
	}
	r.out.registers = make([]uintptr, len(r.p.registers)+1)
	for i := range r.out.registers {
		r.out.registers[i] = ^uintptr(0) // no descriptor
	}
	r.out.keep = r
}

// jump turns the index of an operation, 0 for none, into that of a step.
func (r *resolver) jump(op int32, step int) int32 {
	if op == 0 {
		return int32(step) + 1
	}
	return r.first[op]
}

// operation appends the steps of one operation.
func (r *resolver) operation(i int) {
	op := &r.p.Ops[i]
	switch op.Nr {
	case opClose:
		r.closeOthers(i, op.Args[0].Value == 1)
		return
	case opFilter:
		return // in the gangway
	case opExec:
		r.exec(i)
		return
	}
	s := step{
		op: uint32(i) | uint32(op.late)<<lateShift, nr: op.Nr, result: int32(op.Result), tolerant: op.Tolerant,
		then: int32(op.Then), other: int32(op.Else), store: op.Store,
	}
	copy(s.ignore[:], op.Ignore)
	for n, a := range op.Args {
		switch a.kind {
		case argRegister:
			s.registers |= 1 << n
			s.args[n] = a.Value
		case argSlot:
			s.args[n] = uintptr(r.slots[a.Value])
		case argMemory:
			s.args[n] = uintptr(a.mem)
		default:
			s.args[n] = a.Value
		}
	}
	r.out.steps = append(r.out.steps, s)
}

// closeOthers closes all descriptors but those that are still needed.
func (r *resolver) closeOthers(op int, final bool) {
	keep := []int{0, 1, 2}
	for i, fd := range r.slots {
		if !final || r.p.passed[i] {
			keep = append(keep, fd)
		}
	}
	for i := range r.preserve {
		keep = append(keep, 3+i)
	}
	slices.Sort(keep)
	from := 0
	for _, fd := range slices.Compact(keep) {
		if fd > from {
			r.raw(op, unix.SYS_CLOSE_RANGE, uintptr(from), uintptr(fd-1), 0)
		}
		from = fd + 1
	}
	r.raw(op, unix.SYS_CLOSE_RANGE, uintptr(from), uintptr(^uint32(0)), 0)
}

// exec ends in the gangway.
func (r *resolver) exec(op int) {
	for _, list := range [][]string{r.p.exec.candidates, r.p.exec.args} {
		for _, s := range list {
			r.argv = append(r.argv, cString(s))
		}
	}
	for _, s := range r.p.exec.env {
		r.envp = append(r.envp, cString(s))
	}
	r.argv, r.envp = append(r.argv, nil), append(r.envp, nil)
	r.path = []byte{0}
	r.raw(op, unix.SYS_FCNTL, uintptr(r.report), unix.F_SETFD, 0)
	if r.p.exec.byPath {
		r.path = append(strconv.AppendInt([]byte("/proc/self/fd/"), int64(r.stub), 10), 0)
		r.raw(op, unix.SYS_EXECVE, uintptr(unsafe.Pointer(&r.path[0])), uintptr(unsafe.Pointer(&r.argv[0])), uintptr(unsafe.Pointer(&r.envp[0])))
		return
	}
	r.raw(op, unix.SYS_EXECVEAT, uintptr(r.stub), uintptr(unsafe.Pointer(&r.path[0])), uintptr(unsafe.Pointer(&r.argv[0])),
		uintptr(unsafe.Pointer(&r.envp[0])), unix.AT_EMPTY_PATH)
}

// raw appends a step with plain arguments.
func (r *resolver) raw(op int, nr uintptr, args ...uintptr) {
	s := step{op: uint32(op), nr: nr, result: -1}
	copy(s.args[:], args)
	r.out.steps = append(r.out.steps, s)
}

func cString(s string) *byte {
	b := make([]byte, len(s)+1)
	copy(b, s)
	return &b[0]
}
