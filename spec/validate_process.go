package spec

import (
	"fmt"
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

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
	if p.ConsoleSize != nil && p.Terminal && (p.ConsoleSize.Height > 65535 || p.ConsoleSize.Width > 65535) {
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

// capabilities checks the sets. Names that nobody knows are left to a warning (UnknownCapabilities), as the specification wants it.
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
		c.count(at+"."+set.name, len(set.caps), 1024)
	}
	for i, name := range caps.Effective {
		if _, known := CapabilityNumber(name); known && !slices.Contains(caps.Permitted, name) {
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

// oneOf checks that a value is one of those allowed.
func (c *checker) oneOf(at, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		c.errorf(at, "unknown value %q", clip(value))
	}
}

// sortedKeys returns a map's keys in order, so that errors come in the same order every time.
func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
