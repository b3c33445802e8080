package boot

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// String shows the program as an strace would, one operation a line: its number, the call, where it leads if not to the next one,
// and its origin.
func (p *Program) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "     clone3(%s)\n", cloneText(p.CloneFlags))
	origin := ""
	for i := range p.Ops {
		op := &p.Ops[i]
		if op.Origin != "" && op.Origin != origin {
			fmt.Fprintf(&out, "   # %s\n", op.Origin)
		}
		origin = op.Origin
		fmt.Fprintf(&out, "%4d %s\n", i, p.opText(op))
	}
	if p.filter != nil {
		fmt.Fprintf(&out, "\nseccomp filter: %s", p.filter.Policy)
	}
	return out.String()
}

func cloneText(flags uint64) string {
	if flags == 0 {
		return "SIGCHLD"
	}
	return namesClone.format(uintptr(flags)) + "|SIGCHLD"
}

// opText shows one operation.
func (p *Program) opText(op *Op) string {
	var out strings.Builder
	if op.Result >= 0 {
		out.WriteString(p.registers[op.Result] + " = ")
	}
	out.WriteString(p.callText(op))
	if op.Tolerant {
		out.WriteString("  or any error")
	}
	for i, errno := range op.Ignore {
		out.WriteString([]string{"  or ", "|"}[min(i, 1)] + unix.ErrnoName(errno))
	}
	if op.Mark != "" {
		out.WriteString("  asks the parent: " + op.Mark)
	}
	if op.Then != 0 {
		out.WriteString("  ok -> " + strconv.Itoa(op.Then))
	}
	if op.Else != 0 {
		out.WriteString("  else -> " + strconv.Itoa(op.Else))
	}
	return out.String()
}

// callText shows the call of an operation, without its consequences.
func (p *Program) callText(op *Op) string {
	switch op.Nr {
	case opFail:
		return "fail " + namesErrno.format(op.Args[0].Value)
	case opClose:
		if op.Args[0].Value == 1 {
			return "close_range(all but what the program keeps)"
		}
		return "close_range(all but the parent's descriptors)"
	case opReport:
		return "report " + strconv.Quote(op.What)
	case opAwait:
		return "await " + strconv.Quote(op.What)
	case opExpect:
		return fmt.Sprintf("expect %s = %s", p.argText(op.Args[0]), p.argText(op.Args[1]))
	case opLoad:
		return p.argText(op.Args[0])
	case opOctal:
		return fmt.Sprintf("%s = octal of %s", p.argText(op.Args[1]), p.argText(op.Args[0]))
	case opHas:
		return "has " + p.argText(op.Args[0])
	case opBirth:
		return "clone3(" + p.argText(op.Args[0]) + "), the rest is the new child's"
	case opFilter:
		return fmt.Sprintf("seccomp(SECCOMP_SET_MODE_FILTER, %s, {%d instructions}) by the gangway", namesFilterFlags.format(uintptr(p.filter.Flags)),
			len(p.filter.Program))
	case opExec:
		return p.exec.String()
	}
	args := make([]string, len(op.Args))
	for i, a := range op.Args {
		args[i] = p.argText(a)
	}
	return callName(op.Nr) + "(" + strings.Join(args, ", ") + ")"
}

// argText shows one argument.
func (p *Program) argText(a Arg) string {
	switch {
	case a.kind == argRegister:
		return p.registers[a.Value]
	case a.kind == argSlot:
		return "<" + p.slots[a.Value] + ">"
	case a.kind == argMemory:
		return a.show(a.mem)
	case a.names == namesMode:
		return "0" + strconv.FormatUint(uint64(a.Value), 8)
	case a.names == namesLimit:
		return "RLIMIT_" + limitNames[a.Value]
	case a.names == namesCapability:
		return capabilityName(a.Value)
	case a.names != nil:
		return a.names.format(a.Value)
	default:
		return strconv.FormatInt(int64(a.Value), 10)
	}
}
