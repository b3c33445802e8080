package spec

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var seccompActions = []string{
	string(specs.ActKill), string(specs.ActKillProcess), string(specs.ActKillThread), string(specs.ActTrap),
	string(specs.ActErrno), string(specs.ActTrace), string(specs.ActAllow), string(specs.ActLog), string(specs.ActNotify),
}

var seccompOperators = []string{
	string(specs.OpNotEqual), string(specs.OpLessThan), string(specs.OpLessEqual), string(specs.OpEqualTo),
	string(specs.OpGreaterEqual), string(specs.OpGreaterThan), string(specs.OpMaskedEqual),
}

// seccomp checks a profile's form. Whether a system call exists is for the architecture to say, and unknown ones are legal.
func (c *checker) seccomp(s *specs.LinuxSeccomp) {
	if s == nil {
		return
	}
	const at = "linux.seccomp"
	c.oneOf(at+".defaultAction", string(s.DefaultAction), seccompActions...)
	c.errno(at+".defaultErrnoRet", s.DefaultErrnoRet)
	for i, a := range s.Architectures {
		if !strings.HasPrefix(string(a), "SCMP_ARCH_") {
			c.errorf(fmt.Sprintf("%s.architectures[%d]", at, i), "unknown value %q", clip(string(a)))
		}
	}
	if s.ListenerPath != "" {
		c.path(at+".listenerPath", s.ListenerPath, true)
	}
	if !c.count(at+".syscalls", len(s.Syscalls), maxEntries) {
		return
	}
	for i, rule := range s.Syscalls {
		each := fmt.Sprintf("%s.syscalls[%d]", at, i)
		c.seccompRule(each, rule)
	}
}

func (c *checker) seccompRule(at string, rule specs.LinuxSyscall) {
	if len(rule.Names) == 0 {
		c.errorf(at+".names", "empty")
	}
	if c.count(at+".names", len(rule.Names), maxEntries) {
		for i, name := range rule.Names {
			if name == "" || len(name) > 255 {
				c.errorf(fmt.Sprintf("%s.names[%d]", at, i), "%q is not a name of a system call", clip(name))
			}
		}
	}
	c.oneOf(at+".action", string(rule.Action), seccompActions...)
	c.errno(at+".errnoRet", rule.ErrnoRet)
	if !c.count(at+".args", len(rule.Args), 64) {
		return
	}
	for i, arg := range rule.Args {
		each := fmt.Sprintf("%s.args[%d]", at, i)
		if arg.Index > 5 {
			c.errorf(each+".index", "%d is more than 5", arg.Index)
		}
		c.oneOf(each+".op", string(arg.Op), seccompOperators...)
	}
}

// errno checks an error number that a filter returns.
func (c *checker) errno(at string, v *uint) {
	if v != nil && *v > 4095 {
		c.errorf(at, "%d is more than 4095", *v)
	}
}
