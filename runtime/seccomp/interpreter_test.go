package seccomp

import (
	"encoding/binary"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// systemCall is what a filter looks at: struct seccomp_data.
type systemCall struct {
	number, arch uint32
	args         [6]uint64
}

func (c *systemCall) data() []byte {
	b := binary.LittleEndian.AppendUint32(nil, c.number)
	b = binary.LittleEndian.AppendUint32(b, c.arch)
	b = binary.LittleEndian.AppendUint64(b, 0)
	for _, a := range c.args {
		b = binary.LittleEndian.AppendUint64(b, a)
	}
	return b
}

// interpret runs a filter as the kernel does, and checks what the kernel checks before it takes one. It returns the number of instructions
// that ran, too.
func interpret(program []unix.SockFilter, c *systemCall) (Action, int, error) {
	data := c.data()
	var a uint32
	steps := 0
	for pc := 0; pc < len(program); pc++ {
		i := program[pc]
		steps++
		skip := func(yes bool) {
			if yes {
				pc += int(i.Jt)
			} else {
				pc += int(i.Jf)
			}
		}
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if i.K%4 != 0 || int(i.K)+4 > len(data) {
				return 0, 0, fmt.Errorf("instruction %d loads from %d", pc, i.K)
			}
			a = binary.LittleEndian.Uint32(data[i.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= i.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			skip(a == i.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			skip(a >= i.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			skip(a > i.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			skip(a&i.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return Action(i.K), steps, nil
		default:
			return 0, 0, fmt.Errorf("instruction %d has code %#x", pc, i.Code)
		}
	}
	return 0, 0, fmt.Errorf("the program ends without a return")
}

// evaluate says what a profile means for a call, straight from the specification. The second result has the actions of all rules that
// apply.
func evaluate(s *specs.LinuxSeccomp, goarch string, c *systemCall) (Action, []Action) {
	standard, err := parseAction(s.DefaultAction, s.DefaultErrnoRet)
	if err != nil {
		panic(err)
	}
	abi := callABI(s, goarch, c)
	if abi < 0 {
		if abi == tracerSkipped {
			return standard, nil
		}
		return refuseArch, nil
	}
	newest, private := int64(-1), int64(-1)
	conditional := call{wide: abis[abi].wide}
	var apply []Action
	for _, r := range s.Syscalls {
		action, err := parseAction(r.Action, r.ErrnoRet)
		if err != nil {
			panic(err)
		}
		for _, name := range r.Names {
			direct, muxedRule := false, false
			if e, ok := lookup(name); ok && e.numbers[abi] != noCall {
				n := int64(number(abi, uint32(e.numbers[abi])))
				if n >= privateCall && abi == arm {
					private = max(private, n)
				} else {
					newest = max(newest, n)
				}
				direct = n == int64(c.number)
			}
			if e, ok := lookup(name); ok && abi == x86 {
				if by, value, ok := e.older(); ok && uint32(by) == c.number {
					muxedRule = uint32(c.args[0]) == uint32(value)
				}
			}
			switch {
			case action == standard || !direct && !muxedRule:
			case len(r.Args) == 0 && direct:
				return action, []Action{action}
			case direct && unconditional(r.Args, abi):
				return action, []Action{action}
			case holds(r.Args, c, abi, muxedRule):
				apply = append(apply, action)
				conditional.rules = append(conditional.rules, applying(r.Args, c, abi, muxedRule, action)...)
			}
		}
	}
	// A rule without arguments may come later: that has returned above.
	switch {
	case len(apply) > 0:
		conditional.order()
		return conditional.rules[0].action, apply
	case standard.permissive():
	case abi == arm && c.number >= privateCall:
		if private >= 0 && int64(c.number) > private {
			return refuseNew, nil
		}
	case newest >= 0 && int64(c.number) > newest:
		return refuseNew, nil
	}
	return standard, nil
}

const tracerSkipped = -2

func callABI(s *specs.LinuxSeccomp, goarch string, c *systemCall) int {
	has := func(a specs.Arch) bool {
		for _, have := range s.Architectures {
			if have == a {
				return true
			}
		}
		return false
	}
	switch {
	case goarch == "amd64" && c.arch == unix.AUDIT_ARCH_X86_64 && c.number < x32Bit:
		return amd64
	case goarch == "amd64" && c.arch == unix.AUDIT_ARCH_X86_64 && has(specs.ArchX32):
		return x32
	case goarch == "amd64" && c.arch == unix.AUDIT_ARCH_X86_64 && c.number == ^uint32(0):
		return tracerSkipped
	case goarch == "amd64" && c.arch == unix.AUDIT_ARCH_I386 && has(specs.ArchX86):
		return x86
	case goarch == "arm64" && c.arch == unix.AUDIT_ARCH_AARCH64:
		return arm64
	case goarch == "arm64" && c.arch == unix.AUDIT_ARCH_ARM && has(specs.ArchARM):
		return arm
	}
	return -1
}

// unconditional says whether a rule holds whatever the arguments are.
func unconditional(args []specs.LinuxSeccompArg, abi int) bool {
	seen, free := map[uint]bool{}, 0
	for _, a := range args {
		seen[a.Index] = true
		if a.Op == specs.OpMaskedEqual && (a.Value == 0 || !abis[abi].wide && uint32(a.Value) == 0) {
			free++
		}
	}
	return free == len(args) || free > 0 && len(seen) < len(args)
}

// applying returns the compiled form of those alternatives of a rule that apply.
func applying(args []specs.LinuxSeccompArg, c *systemCall, abi int, byMux bool, action Action) (out []rule) {
	alternatives, err := parseArgs(0, args)
	if err != nil {
		panic(err)
	}
	if len(alternatives) == 0 {
		alternatives = [][]condition{nil}
	}
	for _, conditions := range alternatives {
		var list []specs.LinuxSeccompArg
		var with []condition
		if byMux {
			with = append(with, condition{op: specs.OpEqualTo, value: c.args[0]})
		}
		for _, x := range conditions {
			a := specs.LinuxSeccompArg{Index: x.index, Op: x.op, Value: x.value}
			if x.op == specs.OpMaskedEqual {
				a.Value, a.ValueTwo = x.mask, x.value
			}
			list = append(list, a)
			if !byMux || x.index != 0 {
				with = append(with, x)
			}
		}
		if holds(list, c, abi, byMux) {
			out = append(out, rule{with, action})
		}
	}
	return out
}

// holds says whether a rule's arguments hold: all of them, or one if two are about the same. Of a call that comes by way of another the
// first counts as one that holds.
func holds(args []specs.LinuxSeccompArg, c *systemCall, abi int, byMux bool) bool {
	if len(args) == 0 {
		return true
	}
	count := map[uint]int{}
	all, one := true, false
	for _, a := range args {
		count[a.Index]++
		v, want, second := c.args[a.Index], a.Value, a.ValueTwo
		if !abis[abi].wide {
			v, want, second = v&0xffffffff, want&0xffffffff, second&0xffffffff
		}
		var ok bool
		switch a.Op {
		case specs.OpEqualTo:
			ok = v == want
		case specs.OpNotEqual:
			ok = v != want
		case specs.OpGreaterThan:
			ok = v > want
		case specs.OpGreaterEqual:
			ok = v >= want
		case specs.OpLessThan:
			ok = v < want
		case specs.OpLessEqual:
			ok = v <= want
		case specs.OpMaskedEqual:
			ok = v&want == second&want
		}
		ok = ok || byMux && a.Index == 0
		all, one = all && ok, one || ok
	}
	for _, n := range count {
		if n > 1 {
			return one
		}
	}
	return all
}
