package spec

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Patterns are compiled when they are first asked: that takes longer than all other checks of a usual specification.
var listPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*$`)
})

// rlimitTypes are the resource limits that Linux has.
var rlimitTypes = []string{
	"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS", "RLIMIT_MEMLOCK",
	"RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_RTPRIO",
	"RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK",
}

func (c *checker) process(at string, p *specs.Process) {
	if len(p.Args) == 0 {
		c.errorf(at+".args", "empty")
	} else if p.Args[0] == "" {
		c.errorf(at+".args[0]", "empty")
	}
	c.strings(at+".args", p.Args)
	c.environment(at+".env", p.Env)
	c.path(at+".cwd", p.Cwd, true)
	if p.ConsoleSize != nil && (p.ConsoleSize.Height > 65535 || p.ConsoleSize.Width > 65535) {
		c.errorf(at+".consoleSize", "%d by %d, more than 65535", p.ConsoleSize.Height, p.ConsoleSize.Width)
	}
	if p.User.Umask != nil && *p.User.Umask > 0o777 {
		c.errorf(at+".user.umask", "%#o is more than 0777", *p.User.Umask)
	}
	c.count(at+".user.additionalGids", len(p.User.AdditionalGids), maxEntries)
	c.capabilities(at+".capabilities", p.Capabilities)
	c.rlimits(at+".rlimits", p.Rlimits)
	c.text(at+".apparmorProfile", p.ApparmorProfile, maxPath)
	c.text(at+".selinuxLabel", p.SelinuxLabel, maxPath)
	if p.OOMScoreAdj != nil && (*p.OOMScoreAdj < -1000 || *p.OOMScoreAdj > 1000) {
		c.errorf(at+".oomScoreAdj", "%d is not between -1000 and 1000", *p.OOMScoreAdj)
	}
	c.scheduling(at, p)
}

func (c *checker) capabilities(at string, caps *specs.LinuxCapabilities) {
	if caps == nil {
		return
	}
	for _, set := range []struct {
		name string
		caps []string
	}{
		{"bounding", caps.Bounding},
		{"effective", caps.Effective},
		{"inheritable", caps.Inheritable},
		{"permitted", caps.Permitted},
		{"ambient", caps.Ambient},
	} {
		if !c.count(at+"."+set.name, len(set.caps), 1024) {
			continue
		}
		for i, name := range set.caps {
			if _, ok := CapabilityNumber(name); !ok {
				c.errorf(fmt.Sprintf("%s.%s[%d]", at, set.name, i), "unknown capability %q", clip(name))
			}
		}
	}
	for i, name := range caps.Effective {
		if !slices.Contains(caps.Permitted, name) {
			c.errorf(fmt.Sprintf("%s.effective[%d]", at, i), "%s is not in permitted", clip(name))
		}
	}
}

func (c *checker) rlimits(at string, limits []specs.POSIXRlimit) {
	if !c.count(at, len(limits), 64) {
		return
	}
	seen := map[string]bool{}
	for i, l := range limits {
		at := fmt.Sprintf("%s[%d]", at, i)
		switch {
		case !slices.Contains(rlimitTypes, l.Type):
			c.errorf(at+".type", "unknown limit %q", clip(l.Type))
		case seen[l.Type]:
			c.errorf(at+".type", "%s is there twice", l.Type)
		case l.Soft > l.Hard:
			c.errorf(at+".soft", "%d is more than the hard limit %d", l.Soft, l.Hard)
		}
		seen[l.Type] = true
	}
}

// scheduling checks the scheduler, the I/O priority and the CPU affinity of a process.
func (c *checker) scheduling(at string, p *specs.Process) {
	if s := p.Scheduler; s != nil {
		c.oneOf(at+".scheduler.policy", string(s.Policy), "SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH",
			"SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE")
		if s.Nice < -20 || s.Nice > 19 {
			c.errorf(at+".scheduler.nice", "%d is not between -20 and 19", s.Nice)
		}
		if s.Priority < 0 || s.Priority > 99 {
			c.errorf(at+".scheduler.priority", "%d is not between 0 and 99", s.Priority)
		}
	}
	if p.IOPriority != nil {
		c.oneOf(at+".ioPriority.class", string(p.IOPriority.Class), string(specs.IOPRIO_CLASS_RT),
			string(specs.IOPRIO_CLASS_BE), string(specs.IOPRIO_CLASS_IDLE))
		if p.IOPriority.Priority < 0 || p.IOPriority.Priority > 7 {
			c.errorf(at+".ioPriority.priority", "%d is not between 0 and 7", p.IOPriority.Priority)
		}
	}
	if p.ExecCPUAffinity != nil {
		c.list(at+".execCPUAffinity.initial", p.ExecCPUAffinity.Initial)
		c.list(at+".execCPUAffinity.final", p.ExecCPUAffinity.Final)
	}
}

// oneOf checks that a value is one of those allowed.
func (c *checker) oneOf(at, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		c.errorf(at, "unknown value %q", clip(value))
	}
}

// list checks a list of CPUs or memory nodes in the kernel's notation, such as 0-3,8. Empty is fine.
func (c *checker) list(at, value string) {
	if value == "" {
		return
	}
	if len(value) > maxPath || !listPattern().MatchString(value) {
		c.errorf(at, "%q is not a list such as 0-3,8", clip(value))
	}
}

// sortedKeys returns a map's keys in order, so that errors come in the same order every time.
func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
