package spec

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/runtime/seccomp"
)

// seccomp checks a profile's form. Whether a system call exists is for the architecture to say, and unknown ones are legal.
func (c *checker) seccomp(s *specs.LinuxSeccomp) {
	if !seccomp.Wanted(s) {
		return
	}
	const at = "linux.seccomp"
	c.oneOf(at+".defaultAction", string(s.DefaultAction), seccomp.Actions()...)
	c.errno(at+".defaultErrnoRet", s.DefaultAction, s.DefaultErrnoRet)
	archs, flags := seccomp.Archs(), seccomp.Flags()
	if c.count(at+".architectures", len(s.Architectures), 64) {
		for i, a := range s.Architectures {
			c.oneOf(fmt.Sprintf("%s.architectures[%d]", at, i), string(a), archs...)
		}
	}
	if c.count(at+".flags", len(s.Flags), 64) {
		for i, f := range s.Flags {
			c.oneOf(fmt.Sprintf("%s.flags[%d]", at, i), string(f), flags...)
		}
	}
	if !c.count(at+".syscalls", len(s.Syscalls), maxEntries) {
		return
	}
	for i := range s.Syscalls {
		c.seccompRule(fmt.Sprintf("%s.syscalls[%d]", at, i), &s.Syscalls[i])
	}
	c.seccompListener(at, s)
}

// seccompListener checks what belongs to notifications. Without any the path and its metadata mean nothing.
func (c *checker) seccompListener(at string, s *specs.LinuxSeccomp) {
	if s.DefaultAction == specs.ActNotify { // then what hands the listener over would wait for it
		c.errorf(at+".defaultAction", "SCMP_ACT_NOTIFY cannot be used as default action")
	}
	c.text(at+".listenerMetadata", s.ListenerMetadata, 1<<20)
	notifies := seccomp.Notifies(s)
	switch i := slices.Index(s.Flags, specs.LinuxSeccompFlagWaitKillableRecv); {
	case !notifies && i >= 0:
		c.errorf(fmt.Sprintf("%s.flags[%d]", at, i), "%s needs a rule with SCMP_ACT_NOTIFY", s.Flags[i])
	case !notifies:
	case s.ListenerPath == "":
		c.errorf(at+".listenerPath", "seccomp listenerPath is not set")
	default:
		c.path(at+".listenerPath", s.ListenerPath, true)
	}
}

func (c *checker) seccompRule(at string, rule *specs.LinuxSyscall) {
	if len(rule.Names) == 0 {
		c.errorf(at+".names", "empty")
	}
	if c.count(at+".names", len(rule.Names), maxEntries) {
		for i, name := range rule.Names {
			switch {
			case name == "" || len(name) > 255:
				c.errorf(fmt.Sprintf("%s.names[%d]", at, i), "%q is not a name of a system call", clip(name))
			case rule.Action == specs.ActNotify && (name == "write" || name == "sendmsg"): // by which the listener is handed over
				c.errorf(fmt.Sprintf("%s.names[%d]", at, i), "SCMP_ACT_NOTIFY cannot be used for the %s syscall", name)
			}
		}
	}
	c.oneOf(at+".action", string(rule.Action), seccomp.Actions()...)
	c.errno(at+".errnoRet", rule.Action, rule.ErrnoRet)
	if !c.count(at+".args", len(rule.Args), 64) {
		return
	}
	operators := seccomp.Operators()
	for i, arg := range rule.Args {
		if arg.Index > 5 {
			c.errorf(fmt.Sprintf("%s.args[%d].index", at, i), "%d is more than 5", arg.Index)
		}
		c.oneOf(fmt.Sprintf("%s.args[%d].op", at, i), string(arg.Op), operators...)
	}
}

// errno checks an error number that a filter returns. The specification wants an error where the action has no use for one.
func (c *checker) errno(at string, action specs.LinuxSeccompAction, v *uint) {
	switch {
	case v == nil:
	case action != specs.ActErrno && action != specs.ActTrace:
		c.errorf(at, "%s takes no errno", clip(string(action)))
	case *v > 4095:
		c.errorf(at, "%d is more than 4095", *v)
	}
}
