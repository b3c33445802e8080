package seccomp

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Filter is a compiled profile.
type Filter struct {
	// Program is what seccomp(2) takes.
	Program []unix.SockFilter
	// Flags are the SECCOMP_FILTER_FLAG_… to install it with, SECCOMP_FILTER_FLAG_NEW_LISTENER among them when an action is to notify.
	Flags uint
	// Policy is what the program carries out.
	Policy *Policy
}

// Listener says whether installing the filter returns a descriptor for a supervisor of system calls, seccomp_unotify(2).
func (f *Filter) Listener() bool { return f.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 }

// Compile compiles the seccomp section of a specification for machines of the architecture goarch, amd64 or arm64. It returns nil for a
// section that asks for nothing: no default action and no rules, as runc has it. Errors are of type *Error.
func Compile(s *specs.LinuxSeccomp, goarch string) (*Filter, error) {
	if !Wanted(s) {
		return nil, nil
	}
	flags, err := parseFlags(s.Flags)
	if err != nil {
		return nil, err
	}
	p, err := newPolicy(s, goarch)
	if err != nil {
		return nil, err
	}
	if p.notifies() {
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	program, err := p.program()
	if err != nil {
		return nil, err
	}
	return &Filter{Program: program, Flags: flags, Policy: p}, nil
}

// Wanted says whether a section asks for a filter.
func Wanted(s *specs.LinuxSeccomp) bool {
	return s != nil && (s.DefaultAction != "" || len(s.Syscalls) > 0)
}

// Notifies says whether a section has a rule that hands system calls to a supervisor.
func Notifies(s *specs.LinuxSeccomp) bool {
	return s != nil && slices.ContainsFunc(s.Syscalls, func(r specs.LinuxSyscall) bool { return r.Action == specs.ActNotify })
}

// flagTsync is understood and does nothing, as in runc: a filter is installed by a process of one thread.
const flagTsync = specs.LinuxSeccompFlag("SECCOMP_FILTER_FLAG_TSYNC")

// parseFlags returns the flags as a mask. Without a list, which is something else than an empty one, it is what runc makes of it.
func parseFlags(list []specs.LinuxSeccompFlag) (flags uint, err error) {
	if list == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	}
	for i, name := range list {
		switch name {
		case flagTsync:
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			flags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		default:
			return 0, &Error{fmt.Sprintf("linux.seccomp.flags[%d]", i), fmt.Errorf("unknown flag %q", name)}
		}
	}
	return flags, nil
}

// Offsets in struct seccomp_data. Both machines that there are numbers for are little-endian.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

// program compiles the policy.
func (p *Policy) program() ([]unix.SockFilter, error) {
	w := writer{policy: p, code: make([]unix.SockFilter, 0, 512)}
	groups := p.groups()
	starts := make([]place, len(groups))
	for i := len(groups) - 1; i >= 0; i-- {
		starts[i] = w.load(offsetNumber, w.search(p.spans(groups[i])))
	}
	next := w.ret(refuseArch)
	for i := len(groups) - 1; i >= 0; i-- {
		next = w.jump(unix.BPF_JEQ, abis[groups[i][0].abi].audit, starts[i], next)
	}
	w.load(offsetArch, next)
	if len(w.code) > unix.BPF_MAXINSNS {
		return nil, &Error{"linux.seccomp.syscalls", fmt.Errorf("%d instructions, more than %d", len(w.code), unix.BPF_MAXINSNS)}
	}
	for i, j := 0, len(w.code)-1; i < j; i, j = i+1, j-1 {
		w.code[i], w.code[j] = w.code[j], w.code[i]
	}
	return w.code, nil
}

// place is an instruction as a target of jumps: how many instructions there are from it to the end of the program.
type place int

// writer writes a program from its end to its beginning: jumps lead forward only, so where they lead is always there already.
type writer struct {
	policy  *Policy
	code    []unix.SockFilter // in reverse order
	returns []returned
}

// returned is where an action is returned.
type returned struct {
	action Action
	at     place
}

func (w *writer) emit(code uint16, k uint32, jt, jf uint8) place {
	w.code = append(w.code, unix.SockFilter{Code: code, K: k, Jt: jt, Jf: jf})
	return place(len(w.code))
}

// distance is how many instructions one that is written next would skip to get to a place.
func (w *writer) distance(to place) int { return len(w.code) - int(to) }

// ret returns an action. The same return is used again from not too far away.
func (w *writer) ret(a Action) place {
	for i := range w.returns {
		if r := &w.returns[i]; r.action == a {
			if w.distance(r.at) > 200 {
				r.at = w.emit(unix.BPF_RET|unix.BPF_K, uint32(a), 0, 0)
			}
			return r.at
		}
	}
	at := w.emit(unix.BPF_RET|unix.BPF_K, uint32(a), 0, 0)
	w.returns = append(w.returns, returned{a, at})
	return at
}

// within makes a place that a conditional jump reaches, with room for n instructions more before it.
func (w *writer) within(to place, n int) place {
	if w.distance(to)+n <= 255 {
		return to
	}
	return w.emit(unix.BPF_JMP|unix.BPF_JA, uint32(w.distance(to)), 0, 0)
}

// jump compares what is loaded with k.
func (w *writer) jump(op uint16, k uint32, yes, no place) place {
	if yes == no {
		return yes
	}
	yes = w.within(yes, 1)
	no = w.within(no, 0)
	return w.emit(unix.BPF_JMP|op|unix.BPF_K, k, uint8(w.distance(yes)), uint8(w.distance(no)))
}

// load loads a word of struct seccomp_data and goes on at a place.
func (w *writer) load(offset uint32, next place) place {
	w.follow(next)
	return w.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0)
}

// follow makes a place the one that the next instruction goes on to.
func (w *writer) follow(next place) {
	if d := w.distance(next); d != 0 {
		w.emit(unix.BPF_JMP|unix.BPF_JA, uint32(d), 0, 0)
	}
}

// search finds the span that the number is in.
func (w *writer) search(spans []span) place {
	if len(spans) == 1 {
		return w.verdict(spans[0].verdict)
	}
	middle := len(spans) / 2
	above := w.search(spans[middle:])
	below := w.search(spans[:middle])
	return w.jump(unix.BPF_JGE, spans[middle].from, above, below)
}

// verdict carries out what is to happen in a span.
func (w *writer) verdict(v verdict) place {
	if v.kind == fixed {
		return w.ret(v.action)
	}
	next := w.ret(w.policy.Default)
	c := &w.policy.calls[v.call]
	for i := len(c.rules) - 1; i >= 0; i-- {
		ok := w.ret(c.rules[i].action)
		for j := len(c.rules[i].conditions) - 1; j >= 0; j-- {
			ok = w.condition(&c.rules[i].conditions[j], c.wide, ok, next)
		}
		next = ok
	}
	return next
}

// condition leads to yes when it holds, else to no.
func (w *writer) condition(c *condition, wide bool, yes, no place) place {
	low, high := uint32(c.value), uint32(c.value>>32)
	offset := offsetArgs + 8*uint32(c.index)
	switch c.op {
	case specs.OpNotEqual, specs.OpLessEqual, specs.OpLessThan:
		yes, no = no, yes // and the opposite of it
	}
	var at place
	switch c.op {
	case specs.OpMaskedEqual:
		at = w.masked(offset, uint32(c.mask), low, yes, no)
		if wide {
			at = w.masked(offset+4, uint32(c.mask>>32), high, at, no)
		}
		return at
	case specs.OpEqualTo, specs.OpNotEqual:
		at = w.load(offset, w.jump(unix.BPF_JEQ, low, yes, no))
		if wide {
			at = w.load(offset+4, w.jump(unix.BPF_JEQ, high, at, no))
		}
		return at
	case specs.OpGreaterThan, specs.OpLessEqual:
		at = w.load(offset, w.jump(unix.BPF_JGT, low, yes, no))
	case specs.OpGreaterEqual, specs.OpLessThan:
		at = w.load(offset, w.jump(unix.BPF_JGE, low, yes, no))
	}
	if wide {
		at = w.jump(unix.BPF_JEQ, high, at, no)
		at = w.load(offset+4, w.jump(unix.BPF_JGT, high, yes, at))
	}
	return at
}

// masked compares the bits of a word that are in the mask.
func (w *writer) masked(offset, mask, value uint32, yes, no place) place {
	if mask == 0 {
		return yes
	}
	at := w.jump(unix.BPF_JEQ, value, yes, no)
	if mask != ^uint32(0) {
		w.follow(at)
		at = w.emit(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask, 0, 0)
	}
	return w.load(offset, at)
}
