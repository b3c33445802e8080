package seccomp

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Policy is what a profile says about every system call of every ABI of a machine. It means what runc and libseccomp make of a profile:
//
//   - The native ABI is always in; the profile's architectures add others. Calls of an ABI that is not in kill the thread.
//   - Names that are not known are left out, and so are rules whose action is the default one.
//   - A rule without arguments, or with one whose mask is 0, decides about its call, the first one if there are several, whatever rules
//     with arguments say.
//   - A rule with arguments applies when all its conditions hold. When two conditions are about the same argument, one that holds is
//     enough. Of several rules that apply one decides, see call.order; when none does, the default action.
//   - When the default action refuses, a call with a number above all those that the profile names for the ABI gets ENOSYS: the profile is
//     older than the call, and programs have a way to go on without it that they would not try after EPERM.
//   - Of the 32-bit ABIs the lower halves of arguments and values are compared.
//   - In the x86 ABI a rule on a socket or System V IPC call is also one on socketcall or ipc with that call's number as the first
//     argument, in place of the rule's own condition on it: what these calls do is in memory, where no filter can look.
type Policy struct {
	// Default is the action for calls that no rule is about.
	Default Action

	abis  []abiPolicy
	calls []call
	table []verdict // of all ABIs, one after the other
}

// abiPolicy is the part of a policy for one ABI.
type abiPolicy struct {
	abi      int
	verdicts []verdict // by number in table
	newest   int       // largest number that the profile names, -1 for none
	private  int       // likewise among the ABI's own calls, 32-bit ARM only
}

// verdict is what happens to a call.
type verdict struct {
	action Action // when fixed
	call   uint16 // when it depends: index of Policy.calls
	kind   verdictKind
}

type verdictKind uint8

const (
	byDefault verdictKind = iota
	fixed
	depends
)

// call has the rules for one call that look at arguments.
type call struct {
	rules []rule
	wide  bool // as in abiInfo
}

// rule is an action and all that has to hold for it.
type rule struct {
	conditions []condition
	action     Action
}

// condition compares an argument.
type condition struct {
	index       uint
	op          specs.LinuxSeccompOperator
	value, mask uint64 // mask is for MASKED_EQ
}

// always says whether a condition holds for every argument: it compares no bit.
func (c *condition) always(wide bool) bool {
	return c.op == specs.OpMaskedEqual && (c.mask == 0 || !wide && uint32(c.mask) == 0)
}

// Error is something in a profile that can't be compiled.
type Error struct {
	// Path is the JSON path in the specification, such as linux.seccomp.syscalls[3].action.
	Path string
	// Err says what is wrong.
	Err error
}

// Error returns the cause and the path.
func (e *Error) Error() string { return fmt.Sprintf("%v (%s)", e.Err, e.Path) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// at is where the rules are.
func at(i int) string { return fmt.Sprintf("linux.seccomp.syscalls[%d]", i) }

// newPolicy reads a profile for a machine of the architecture goarch.
func newPolicy(s *specs.LinuxSeccomp, goarch string) (*Policy, error) {
	machine, ok := machines[goarch]
	if !ok {
		return nil, &Error{"linux.seccomp", fmt.Errorf("no system call numbers for %s", goarch)}
	}
	p := &Policy{}
	var err error
	if p.Default, err = parseAction(s.DefaultAction, s.DefaultErrnoRet); err != nil {
		return nil, &Error{"linux.seccomp.defaultAction", err}
	}
	p.table = make([]verdict, len(machine)*tableSize)
	for i, abi := range machine {
		if i == 0 || slices.Contains(s.Architectures, abis[abi].arch) {
			p.abis = append(p.abis, abiPolicy{abi: abi, verdicts: p.table[i*tableSize:][:tableSize], newest: -1, private: -1})
		}
	}
	for i := range s.Syscalls {
		if err := p.add(i, &s.Syscalls[i]); err != nil {
			return nil, err
		}
	}
	for i := range p.calls {
		p.calls[i].order()
	}
	return p, nil
}

// add takes over the i'th entry of a profile's system calls.
func (p *Policy) add(i int, s *specs.LinuxSyscall) error {
	action, err := parseAction(s.Action, s.ErrnoRet)
	if err != nil {
		return &Error{at(i) + ".action", err}
	}
	alternatives, err := parseArgs(i, s.Args)
	if err != nil {
		return err
	}
	last := 0
	for _, name := range s.Names {
		found := search(name, last)
		if found < 0 {
			continue
		}
		last = found
		for a := range p.abis {
			p.addCall(&p.abis[a], &table[found], action, alternatives)
		}
	}
	return nil
}

// addCall adds rules on one call in one ABI.
func (p *Policy) addCall(a *abiPolicy, e *entry, action Action, alternatives [][]condition) {
	n := int(e.numbers[a.abi])
	switch {
	case n >= privateBase:
		a.private = max(a.private, n)
	default:
		a.newest = max(a.newest, n)
	}
	if action == p.Default {
		return
	}
	if n != noCall {
		p.decide(a, n, action, alternatives)
	}
	if !abis[a.abi].muxed {
		return
	}
	by, value, ok := e.older()
	if !ok || a.verdicts[by].kind == fixed {
		return
	}
	first := condition{index: 0, op: specs.OpEqualTo, value: value}
	if len(alternatives) == 0 {
		alternatives = [][]condition{nil}
	}
	muxed := make([][]condition, 0, len(alternatives))
	for _, conditions := range alternatives {
		with := append(make([]condition, 0, 1+len(conditions)), first)
		for _, c := range conditions {
			if c.index != 0 {
				with = append(with, c)
			}
		}
		muxed = append(muxed, with)
	}
	p.decide(a, by, action, muxed)
}

// decide adds rules on a call: one for each alternative, or a single one without conditions when there are none.
func (p *Policy) decide(a *abiPolicy, n int, action Action, alternatives [][]condition) {
	v := &a.verdicts[n]
	if v.kind == fixed {
		return
	}
	always := len(alternatives) == 0
	for _, conditions := range alternatives {
		always = always || !slices.ContainsFunc(conditions, func(c condition) bool { return !c.always(abis[a.abi].wide) })
	}
	if always {
		*v = verdict{kind: fixed, action: action}
		return
	}
	if v.kind == byDefault {
		*v = verdict{kind: depends, call: uint16(len(p.calls))}
		p.calls = append(p.calls, call{wide: abis[a.abi].wide})
	}
	c := &p.calls[v.call]
	for _, conditions := range alternatives {
		c.rules = append(c.rules, rule{conditions, action})
	}
}

// parseArgs turns a rule's arguments into alternatives, each with conditions that have to hold together: one alternative, or one for each
// condition when an argument is there twice.
func parseArgs(i int, args []specs.LinuxSeccompArg) ([][]condition, error) {
	if len(args) == 0 {
		return nil, nil
	}
	var seen [6]bool
	twice := false
	all := make([]condition, len(args))
	for j, arg := range args {
		path := fmt.Sprintf("%s.args[%d]", at(i), j)
		if arg.Index > 5 {
			return nil, &Error{path + ".index", fmt.Errorf("%d is more than 5", arg.Index)}
		}
		c := condition{index: arg.Index, op: arg.Op, value: arg.Value}
		switch arg.Op {
		case specs.OpEqualTo, specs.OpNotEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpLessThan, specs.OpLessEqual:
		case specs.OpMaskedEqual:
			c.mask, c.value = arg.Value, arg.ValueTwo&arg.Value
		default:
			return nil, &Error{path + ".op", fmt.Errorf("unknown operator %q", arg.Op)}
		}
		twice = twice || seen[arg.Index]
		seen[arg.Index], all[j] = true, c
	}
	if !twice {
		return [][]condition{all}, nil
	}
	var alternatives [][]condition
	for j := range all {
		alternatives = append(alternatives, all[j:j+1])
	}
	return alternatives, nil
}

// span is a range of the kernel's numbers with one verdict: from here to the next one.
type span struct {
	from    uint32
	verdict verdict
}

// spans puts the verdicts on the numbers that share an AUDIT_ARCH into ranges: those of one ABI, or those of x86_64 and x32, which tell
// each other apart by a bit of the number.
func (p *Policy) spans(group []abiPolicy) []span {
	out := make([]span, 0, 160)
	add := func(from uint32, v verdict) {
		if n := len(out); n == 0 || out[n-1].verdict != v {
			out = append(out, span{from, v})
		}
	}
	beyond := verdict{kind: fixed, action: p.Default}
	if !p.Default.permissive() {
		beyond.action = refuseNew
	}
	standard := verdict{kind: fixed, action: p.Default}
	set := func(a *abiPolicy, from, to int) {
		for n := from; n <= to; n++ {
			v := a.verdicts[n]
			if v.kind == byDefault {
				v = standard
			}
			add(number(a.abi, uint32(n)), v)
		}
		if to >= from {
			add(number(a.abi, uint32(to))+1, beyond)
		} else {
			add(number(a.abi, uint32(from)), standard)
		}
	}
	for i := range group {
		a := &group[i]
		set(a, 0, a.newest)
		if a.abi == arm {
			set(a, privateBase, a.private)
		}
	}
	if len(group) == 1 && group[0].abi == amd64 {
		add(x32Bit, verdict{kind: fixed, action: refuseArch})
		add(^uint32(0), standard) // what a tracer makes of a call that it skips
	}
	return out
}

// groups returns the ABIs that share an AUDIT_ARCH together.
func (p *Policy) groups() [][]abiPolicy {
	var out [][]abiPolicy
	for i := range p.abis {
		if abi := p.abis[i].abi; abi == x32 {
			continue
		} else if last := len(p.abis) - 1; abi == amd64 && p.abis[last].abi == x32 {
			out = append(out, []abiPolicy{p.abis[i], p.abis[last]})
			continue
		}
		out = append(out, p.abis[i:i+1])
	}
	return out
}

// Action returns what happens to a system call of the native ABI. known is false when the call is not known or when that depends on its
// arguments.
func (p *Policy) Action(name string) (a Action, known bool) {
	e, ok := lookup(name)
	if !ok || e.numbers[p.abis[0].abi] == noCall {
		return 0, false
	}
	switch v := p.abis[0].verdicts[e.numbers[p.abis[0].abi]]; v.kind {
	case fixed:
		return v.action, true
	case byDefault:
		return p.Default, true
	}
	return 0, false
}

// notifies says whether a call may end up with a listener.
func (p *Policy) notifies() bool {
	if p.Default == unix.SECCOMP_RET_USER_NOTIF {
		return true
	}
	for i := range p.abis {
		for _, v := range p.abis[i].verdicts {
			if v.kind == fixed && v.action == unix.SECCOMP_RET_USER_NOTIF {
				return true
			}
		}
	}
	for _, c := range p.calls {
		for _, r := range c.rules {
			if r.action == unix.SECCOMP_RET_USER_NOTIF {
				return true
			}
		}
	}
	return false
}
