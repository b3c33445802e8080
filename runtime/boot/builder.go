package boot

import (
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// builder appends operations to a program.
type builder struct {
	p        *Program
	document string // name of the document that the origins are in
	what     string // for the operations that come next
	origin   string
	err      error // the first thing that can't be compiled
}

// last is a handle on the operation that was appended last.
type last struct {
	b *builder
	i int
}

// label is a place further down in the program.
type label struct {
	then, other []int // operations that lead here on success, on an ignored error
}

// on says what the operations that follow are for and which JSON path asked for them ("" for none).
func (b *builder) on(what, path string) {
	b.what, b.origin = what, ""
	if path != "" {
		b.origin = b.document + ": " + path
	}
}

// do appends an operation.
func (b *builder) do(nr uintptr, args ...Arg) last {
	b.p.Ops = append(b.p.Ops, Op{Nr: nr, Args: args, Result: -1, What: b.what, Origin: b.origin})
	return last{b, len(b.p.Ops) - 1}
}

func (l last) op() *Op { return &l.b.p.Ops[l.i] }

// into keeps the result in a register.
func (l last) into(register string) last {
	l.op().Result = l.b.register(register)
	return l
}

// ignore names errors that are none.
func (l last) ignore(errnos ...unix.Errno) last {
	l.op().Ignore = errnos
	return l
}

// latest is a handle on the operation before the next one.
func (b *builder) latest() last { return last{b, len(b.p.Ops) - 1} }

// tolerant makes every error none.
func (l last) tolerant() last {
	l.op().Tolerant = true
	return l
}

// hint says what helps when the operation fails with an errno.
func (l last) hint(errno unix.Errno, text string) last {
	l.op().Hint, l.op().HintFor = text, append(l.op().HintFor, errno)
	return l
}

// then leads to a label on success.
func (l last) then(to *label) last {
	to.then = append(to.then, l.i)
	return l
}

// otherwise leads to a label on an ignored error.
func (l last) otherwise(to *label) last {
	to.other = append(to.other, l.i)
	return l
}

// place makes the next operation the one that a label stands for.
func (b *builder) place(l *label) {
	next := len(b.p.Ops)
	for _, i := range l.then {
		b.p.Ops[i].Then = next
	}
	for _, i := range l.other {
		b.p.Ops[i].Else = next
	}
}

// register returns the index of a named register.
func (b *builder) register(name string) int {
	i := slices.Index(b.p.registers, name)
	if i < 0 {
		i = len(b.p.registers)
		b.p.registers = append(b.p.registers, name)
	}
	return i
}

// reg is the content of a register as an argument.
func (b *builder) reg(name string) Arg {
	return Arg{kind: argRegister, Value: uintptr(b.register(name))}
}

// slot is a descriptor of the parent's as an argument; passed says that it stays open until the end.
func (b *builder) slot(name string, passed bool) Arg {
	i := slices.Index(b.p.slots, name)
	if i < 0 {
		i = len(b.p.slots)
		b.p.slots = append(b.p.slots, name)
		b.p.passed = append(b.p.passed, passed)
	}
	return Arg{kind: argSlot, Value: uintptr(i)}
}

// fail records that a part of the specification can't be compiled.
func (b *builder) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

// index formats the JSON path of a list element.
func index(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

// Descriptors that every program has.
const (
	slotSync = "sync" // reports and the parent's words; close-on-exec
	slotStub = "gangway"
)
