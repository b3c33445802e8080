package boot

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/seccomp"
)

// A seccomp filter is there as late as it can be, so that a profile need not allow what a start takes. There are three places:
//
//   - With no_new_privs everybody may install a filter, so the gangway does, and execve is the only call after it.
//   - Without it that takes CAP_SYS_ADMIN. The process keeps it until it has passed its gate and has the filter; then it drops it and
//     executes the program, which takes capset, prctl, fcntl and execve.
//   - A filter that notifies is installed before the gate, where the parent is still there to pass the listener on. The process hands it
//     over by sendmsg, which therefore must not be notified about.

// MarkListener comes with the listener of a seccomp filter.
const MarkListener = "send seccomp listener"

// filterPlace is where a filter is installed.
type filterPlace int

const (
	filterNone filterPlace = iota
	filterByGangway
	filterAfterGate
	filterBeforeGate
)

// Filter returns the seccomp filter that the program installs, nil if it installs none.
func (p *Program) Filter() *seccomp.Filter { return p.filter }

// gangwayFilter is a filter that the gangway installs.
type gangwayFilter struct {
	*seccomp.Filter
	op int // the operation's index
}

// The place of the profile: it is the container's also for a process that joins.
const (
	profileDocument = "config.json"
	seccompPath     = "linux.seccomp"
)

// compileFilter compiles the profile and says where the filter goes.
func (c *compiler) compileFilter(s *specs.LinuxSeccomp, p *specs.Process) {
	arch := c.facts.Arch
	if arch == "" {
		arch = runtime.GOARCH
	}
	filter, err := seccomp.Compile(s, arch)
	if err != nil {
		path := seccompPath
		if e := new(seccomp.Error); errors.As(err, &e) {
			err, path = e.Err, e.Path
		}
		c.fail(fmt.Errorf("compile seccomp filter: %w (%s: %s)", err, profileDocument, path))
	}
	c.filter = filter
	switch {
	case filter == nil:
		return
	case filter.Listener():
		c.filterPlace = filterBeforeGate
	case p.NoNewPrivileges:
		c.filterPlace = filterByGangway
	default:
		c.filterPlace = filterAfterGate
	}
	c.p.filter = filter
}

// filterAt installs the filter if this is the place, and drops the capabilities that were kept for that.
func (c *compiler) filterAt(place filterPlace) {
	if c.filterPlace != place || c.filter == nil {
		return
	}
	c.on("install seccomp filter", seccompPath)
	c.origin = profileDocument + ": " + seccompPath
	if place == filterByGangway {
		c.p.gangwayFilter = &gangwayFilter{c.filter, len(c.p.Ops)}
		c.do(opFilter)
		return
	}
	from := len(c.p.Ops)
	program := &unix.SockFprog{Len: uint16(len(c.filter.Program)), Filter: &c.filter.Program[0]}
	show := func(unsafe.Pointer) string { return fmt.Sprintf("{%d instructions}", program.Len) }
	install := c.do(unix.SYS_SECCOMP, symbol(unix.SECCOMP_SET_MODE_FILTER, namesSeccomp), symbol(uintptr(c.filter.Flags), namesFilterFlags),
		memory(program, show)).into("listener")
	c.markLate(from, lateFilter)
	if place == filterBeforeGate {
		c.handOverListener(install)
	}
	if sets := c.kept; sets != nil {
		from = len(c.p.Ops)
		c.capabilities(*sets)
		c.markLate(from, lateCapabilities)
	}
	// The gangway's file is executed by its descriptor, which profiles from before execveat(2) refuse.
	if action, known := c.filter.Policy.Action("execveat"); known && action != seccomp.Allow {
		c.p.exec.byPath = true
	}
}

// handOverListener sends the listener to the parent and closes it here: calls must not hang when the supervisor has gone.
func (c *compiler) handOverListener(install last) {
	c.on(MarkListener, seccompPath+".listenerPath")
	c.origin = profileDocument + ": " + seccompPath + ".listenerPath"
	h := newHandOver(len(c.p.Ops))
	install.op().Store = &h.control.fd
	c.do(unix.SYS_SENDMSG, c.slot(slotSync, true), memory(h, showListener), symbol(unix.MSG_NOSIGNAL, namesMessage))
	c.close("listener")
}

// newHandOver prepares a message that carries one descriptor, which an earlier operation stores in control.fd, and reports operation op.
func newHandOver(op int) *handOver {
	h := &handOver{report: report{op: uint32(op)}}
	h.vector.Base = (*byte)(unsafe.Pointer(&h.report))
	h.vector.SetLen(int(unsafe.Sizeof(h.report)))
	h.header.Iov, h.header.Iovlen = &h.vector, 1
	h.control.header.Level, h.control.header.Type = unix.SOL_SOCKET, unix.SCM_RIGHTS
	h.control.header.SetLen(unix.CmsgLen(4))
	h.header.Control = (*byte)(unsafe.Pointer(&h.control))
	h.header.SetControllen(unix.CmsgSpace(4))
	return h
}

// keepForFilter sets the capabilities, and one more when the filter that comes later needs it.
func (c *compiler) keepForFilter(sets capabilitySets, noNewPrivileges bool) {
	if c.filter == nil || noNewPrivileges {
		c.capabilities(sets)
		return
	}
	c.kept = &sets
	more := capabilitySets{permitted: 1 << unix.CAP_SYS_ADMIN}
	if held := c.facts.Capabilities; held != 0 && !c.users {
		more.limit(held)
	}
	wider := sets
	wider.permitted |= more.permitted
	wider.effective |= more.permitted
	wider.ambient = 0
	c.capabilities(wider)
}

func showListener(unsafe.Pointer) string { return "{report, SCM_RIGHTS [listener]}" }

// late says what an operation after the gate is about, for a starter that does not have the program: see DecodeExec.
type late uint8

const (
	lateExec late = iota
	lateFilter
	lateCapabilities
)

// lateShift is where a report has it, above the operation's index.
const lateShift = 24

// lateTexts are the object and the place in the specification of what is late.
var lateTexts = [...]struct{ what, origin, call string }{
	lateFilter:       {"install seccomp filter", seccompPath, "seccomp"},
	lateCapabilities: {"set capabilities", "process.capabilities", "capset"},
}

// markLate marks the operations from an index on.
func (c *compiler) markLate(from int, what late) {
	for i := from; i < len(c.p.Ops); i++ {
		c.p.Ops[i].late = what
	}
}

// decodeLate returns the failure of an operation after the gate that is not the execve.
func decodeLate(document string, op uint32, errno unix.Errno) (*Failure, bool) {
	what := op >> lateShift
	if what == uint32(lateExec) || int(what) >= len(lateTexts) {
		return nil, false
	}
	t := lateTexts[what]
	return &Failure{
		What: t.what, Origin: document + ": " + t.origin, Call: t.call, Err: errno, Index: int(op & (1<<lateShift - 1)),
	}, true
}

var (
	namesSeccomp     = &names{exact: true, list: []name{{unix.SECCOMP_SET_MODE_FILTER, "SECCOMP_SET_MODE_FILTER"}}}
	namesFilterFlags = &names{list: []name{
		{unix.SECCOMP_FILTER_FLAG_LOG, "SECCOMP_FILTER_FLAG_LOG"},
		{unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, "SECCOMP_FILTER_FLAG_SPEC_ALLOW"},
		{unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, "SECCOMP_FILTER_FLAG_NEW_LISTENER"},
		{unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"},
	}}
)
