package vdso

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Group is a group of processes that can be stopped, a cgroup with a freezer.
type Group interface {
	Freeze(ctx context.Context) error
	Thaw(ctx context.Context) error
	// Procs lists the group's processes.
	Procs() ([]int, error)
}

// Thread is one that has stopped in the vDSO, or, as far as its stack tells, in the handler of a signal that came when it was there.
type Thread struct {
	PID, TID int
	Handler  bool
}

func (t Thread) String() string { return fmt.Sprintf("thread %d of process %d", t.TID, t.PID) }

// runFor is how long a group runs between two attempts, at first and at most: a thread leaves the vDSO soon, but may have to wait for a processor.
const (
	runFor  = 50 * time.Microsecond
	runMost = time.Millisecond
)

// Freeze freezes the group at a moment in which no thread is in the vDSO. If there is none for as long as within, the group is left frozen as it is, and
// the threads that were in there at the end are returned: those in a handler are not, for what looks like a signal's frame for so long is what an old one has
// left on the stack. After an error the group is as Group.Freeze left it.
func Freeze(ctx context.Context, g Group, within time.Duration) ([]Thread, error) {
	pause := runFor
	for deadline := time.Now().Add(within); ; pause = min(2*pause, runMost) {
		if err := g.Freeze(ctx); err != nil {
			return nil, err
		}
		pids, err := g.Procs()
		if err != nil {
			return nil, errors.Join(err, g.Thaw(ctx))
		}
		inside := Inside(pids)
		if len(inside) == 0 {
			return nil, nil
		}
		if time.Now().After(deadline) {
			return slices.DeleteFunc(inside, func(t Thread) bool { return t.Handler }), nil
		}
		if err := g.Thaw(ctx); err != nil {
			return nil, err
		}
		time.Sleep(pause)
	}
}

// Inside lists the threads of the processes that are in the vDSO, their own kernel's or one that CRIU has brought along. They should stand still. A thread that
// can't be looked at, for instance because it has ended, is not among them.
func Inside(pids []int) []Thread {
	var inside []Thread
	for _, pid := range pids {
		code := mapped(pid)
		if len(code) == 0 {
			continue
		}
		inside = append(inside, look(pid, code)...)
	}
	return inside
}

// stackSize is how much of a thread's stack is searched for the frame of a signal: as much as Go's signal stacks have.
const stackSize = 32 << 10

// look finds the threads of one process that are in code.
func look(pid int, code []span) []Thread {
	dir := fmt.Sprintf("/proc/%d/", pid)
	names, err := readNames(dir + "task")
	if err != nil {
		return nil
	}
	memory, err := os.Open(dir + "mem")
	if err != nil {
		return nil
	}
	defer memory.Close()
	var inside []Thread
	stack := make([]byte, stackSize)
	for _, name := range names {
		text, err := os.ReadFile(dir + "task/" + name + "/syscall")
		if err != nil {
			continue
		}
		tid, err := strconv.Atoi(name)
		at, ok := parsePlace(string(text))
		if err != nil || !ok {
			continue
		}
		if in(code, at.pc) {
			inside = append(inside, Thread{PID: pid, TID: tid})
			continue
		}
		n, _ := memory.ReadAt(stack, int64(at.sp)) // it ends where the stack does
		if interrupted(stack[:n], code) {
			inside = append(inside, Thread{PID: pid, TID: tid, Handler: true})
		}
	}
	return inside
}

func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// place is where a thread is: its stack and instruction pointers.
type place struct{ sp, pc uint64 }

// parsePlace reads /proc/PID/task/TID/syscall (proc_pid_syscall(5)), whose last two fields are the pointers. It is not ok for a thread that runs.
func parsePlace(text string) (p place, ok bool) {
	fields := strings.Fields(text)
	if len(fields) < 3 {
		return p, false
	}
	var err1, err2 error
	p.sp, err1 = strconv.ParseUint(strings.TrimPrefix(fields[len(fields)-2], "0x"), 16, 64)
	p.pc, err2 = strconv.ParseUint(strings.TrimPrefix(fields[len(fields)-1], "0x"), 16, 64)
	return p, err1 == nil && err2 == nil
}

// interrupted says whether what looks like the registers that a signal's handler returns to are on the stack, with an instruction pointer in code.
func interrupted(stack []byte, code []span) bool {
	for ; len(stack) >= contextSize; stack = stack[8:] {
		if in(code, binary.NativeEndian.Uint64(stack)) && isContext(stack) {
			return true
		}
	}
	return false
}

// span is a piece of an address space, from its first byte to the one after its last.
type span struct{ from, to uint64 }

func in(code []span, address uint64) bool {
	return slices.ContainsFunc(code, func(c span) bool { return c.from <= address && address < c.to })
}

// mapped lists where a process has a vDSO: the kernel's, and one of another kernel that CRIU has restored with it, which is anonymous memory with a program in it.
func mapped(pid int) []span {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil
	}
	var all []span
	for line := range strings.Lines(string(text)) {
		s, named, ok := parseMapping(line)
		if ok && (named || isProgram(pid, s.from)) {
			all = append(all, s)
		}
	}
	return all
}

// parseMapping takes a line of /proc/PID/maps (proc_pid_maps(5)) if it is of executable memory that is a vDSO by name, or has no name.
func parseMapping(line string) (s span, named, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 || !strings.Contains(fields[1], "x") {
		return s, false, false
	}
	named = len(fields) > 5 && fields[5] == "[vdso]"
	low, high, _ := strings.Cut(fields[0], "-")
	from, err1 := strconv.ParseUint(low, 16, 64)
	to, err2 := strconv.ParseUint(high, 16, 64)
	return span{from, to}, named, (named || len(fields) == 5) && err1 == nil && err2 == nil && from < to
}

// Foreign says whether one of the processes has brought along the vDSO of another kernel. From this kernel's it has a copy at an address of CRIU's choice then, and
// the next restore may choose another one, even on the same kernel.
func Foreign(pids []int) bool {
	return slices.ContainsFunc(pids, func(pid int) bool { return len(mapped(pid)) > 1 })
}

// isProgram says whether the memory begins as an ELF file does.
func isProgram(pid int, address uint64) bool {
	var start [4]byte
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return false
	}
	defer f.Close()
	_, err = f.ReadAt(start[:], int64(address))
	return err == nil && bytes.Equal(start[:], []byte("\x7fELF"))
}

// Digest identifies this kernel's vDSO, as a SHA-256 in hex: a thread may be in the middle of it when it goes to a kernel with the same one. It is empty on a
// kernel that maps none.
func Digest() (string, error) {
	own := mapped(os.Getpid())
	if len(own) == 0 {
		return "", nil
	}
	f, err := os.Open("/proc/self/mem")
	if err != nil {
		return "", fmt.Errorf("read the vDSO: %w", err)
	}
	defer f.Close()
	code := make([]byte, own[0].to-own[0].from)
	if _, err := f.ReadAt(code, int64(own[0].from)); err != nil {
		return "", fmt.Errorf("read the vDSO: %w", err)
	}
	sum := sha256.Sum256(code)
	return hex.EncodeToString(sum[:]), nil
}
