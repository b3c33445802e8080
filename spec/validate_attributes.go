package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// schedulerFlags are the flags of a scheduler that the specification knows.
var schedulerFlags = []string{
	string(specs.SchedFlagResetOnFork), string(specs.SchedFlagReclaim), string(specs.SchedFlagDLOverrun), string(specs.SchedFlagKeepPolicy),
	string(specs.SchedFlagKeepParams), string(specs.SchedFlagUtilClampMin), string(specs.SchedFlagUtilClampMax),
}

// scheduling checks the scheduler, the I/O priority and the CPU affinity of a process.
func (c *checker) scheduling(at string, p *specs.Process) {
	if p.Scheduler != nil {
		c.scheduler(at+".scheduler", p.Scheduler)
	}
	if p.IOPriority != nil {
		c.oneOf(at+".ioPriority.class", string(p.IOPriority.Class), string(specs.IOPRIO_CLASS_RT),
			string(specs.IOPRIO_CLASS_BE), string(specs.IOPRIO_CLASS_IDLE))
		c.between(at+".ioPriority.priority", int64(p.IOPriority.Priority), 0, 7)
	}
	if p.ExecCPUAffinity != nil {
		c.list(at+".execCPUAffinity.initial", p.ExecCPUAffinity.Initial)
		c.list(at+".execCPUAffinity.final", p.ExecCPUAffinity.Final)
	}
}

// scheduler checks what sched_setattr(2) would ignore or refuse without a word about which field it is.
func (c *checker) scheduler(at string, s *specs.Scheduler) {
	c.oneOf(at+".policy", string(s.Policy), "SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE")
	c.between(at+".nice", int64(s.Nice), -20, 19)
	if s.Policy == specs.SchedFIFO || s.Policy == specs.SchedRR {
		c.between(at+".priority", int64(s.Priority), 1, 99)
	} else if s.Priority != 0 {
		c.errorf(at+".priority", "only for SCHED_FIFO and SCHED_RR")
	}
	if s.Policy != specs.SchedDeadline && (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0) {
		c.errorf(at, "runtime, deadline and period are only for SCHED_DEADLINE")
	}
	if !c.count(at+".flags", len(s.Flags), 64) {
		return
	}
	for i, f := range s.Flags {
		c.oneOf(fmt.Sprintf("%s.flags[%d]", at, i), string(f), schedulerFlags...)
	}
}

// memoryPolicy checks the mode, and the nodes as far as the mode decides about them (set_mempolicy(2)).
func (c *checker) memoryPolicy(m *specs.LinuxMemoryPolicy) {
	if m == nil {
		return
	}
	const at = "linux.memoryPolicy"
	nodes := countList(m.Nodes)
	if nodes < 0 {
		c.errorf(at+".nodes", "invalid memory policy node list %q, not one such as 0-3,8", clip(m.Nodes))
	}
	switch m.Mode {
	case specs.MpolDefault, specs.MpolLocal:
		if nodes > 0 {
			c.errorf(at+".nodes", "%s: mode requires 0 nodes but got %d", m.Mode, nodes)
		}
	case specs.MpolBind, specs.MpolInterleave, specs.MpolWeightedInterleave, specs.MpolPreferredMany:
		if nodes == 0 {
			c.errorf(at+".nodes", "%s: mode requires at least one node but got 0", m.Mode)
		}
	case specs.MpolPreferred:
	default:
		c.errorf(at+".mode", "invalid memory policy mode %q", clip(string(m.Mode)))
	}
	if !c.count(at+".flags", len(m.Flags), 64) {
		return
	}
	for i, f := range m.Flags {
		if !slices.Contains([]specs.MemoryPolicyFlagType{specs.MpolFNumaBalancing, specs.MpolFRelativeNodes, specs.MpolFStaticNodes}, f) {
			c.errorf(fmt.Sprintf("%s.flags[%d]", at, i), "invalid memory policy flag %q", clip(string(f)))
		}
	}
}

// maxListed is how many CPUs or memory nodes a list may name: the most that a kernel can be built for.
const maxListed = 8192

// countList returns how many numbers a list such as 0-3,8 has, at most those of all its ranges together; -1 for what is no list.
func countList(list string) int {
	if list == "" {
		return 0
	}
	n := 0
	for part := range strings.SplitSeq(list, ",") {
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil || from > to || to >= maxListed || first[0] == '+' {
			return -1
		}
		n += int(to-from) + 1
	}
	return n
}

// list checks a list of CPUs or memory nodes in the kernel's notation, such as 0-3,8. Empty is fine.
func (c *checker) list(at, value string) {
	if len(value) > maxPath || countList(value) < 0 {
		c.errorf(at, "%q is not a list such as 0-3,8", clip(value))
	}
}

// personality checks the execution domain; the specification knows no flags.
func (c *checker) personality(p *specs.LinuxPersonality) {
	if p == nil {
		return
	}
	c.oneOf("linux.personality.domain", string(p.Domain), string(specs.PerLinux), string(specs.PerLinux32))
	for i, f := range p.Flags {
		c.errorf(fmt.Sprintf("linux.personality.flags[%d]", i), "unknown flag %q", clip(string(f)))
	}
}

// intelRdt checks names and schemata of the resource director.
func (c *checker) intelRdt(r *specs.LinuxIntelRdt) {
	if r == nil {
		return
	}
	const at = "linux.intelRdt"
	c.text(at+".closID", r.ClosID, 255)
	if r.ClosID == "." || r.ClosID == ".." || r.ClosID != "/" && strings.ContainsAny(r.ClosID, "/\n") {
		c.errorf(at+".closID", "%q is not a name of a directory", clip(r.ClosID))
	}
	line := func(at, s string) {
		if c.text(at, s, maxPath) && strings.Contains(s, "\n") {
			c.errorf(at, "more than one line")
		}
	}
	line(at+".l3CacheSchema", r.L3CacheSchema)
	line(at+".memBwSchema", r.MemBwSchema)
	if r.MemBwSchema != "" && !strings.HasPrefix(r.MemBwSchema, "MB:") {
		c.errorf(at+".memBwSchema", "%q does not begin with MB:", clip(r.MemBwSchema))
	}
	if c.count(at+".schemata", len(r.Schemata), maxEntries) {
		for i, s := range r.Schemata {
			line(fmt.Sprintf("%s.schemata[%d]", at, i), s)
		}
	}
}

// netDevices checks the names of network devices: what the kernel takes, and none twice.
func (c *checker) netDevices(l *specs.Linux) {
	if len(l.NetDevices) > 0 && !hasNamespace(l, specs.NetworkNamespace) {
		c.errorf("linux.netDevices", "needs a network namespace in linux.namespaces")
	}
	if !c.count("linux.netDevices", len(l.NetDevices), maxEntries) {
		return
	}
	inside := map[string]string{}
	for _, name := range sortedKeys(l.NetDevices) {
		at := "linux.netDevices." + clip(name)
		if !isDeviceName(name) {
			c.errorf("linux.netDevices", "%q is not a name of a network device", clip(name))
			continue
		}
		target := l.NetDevices[name].Name
		switch before, after, template := strings.Cut(target, "%d"); {
		case target == "":
			target = name
		case !isDeviceName(target) || strings.Contains(before+after, "%") || template && after != "":
			c.errorf(at+".name", "%q is not a name of a network device", clip(target))
			continue
		case template:
			continue // the kernel finds a free one
		}
		if other, ok := inside[target]; ok {
			c.errorf(at, "%s and %s can't both be %s in the container", other, name, target)
		}
		inside[target] = name
	}
}

// isDeviceName says whether the kernel takes a name for a network device.
func isDeviceName(n string) bool {
	return n != "" && len(n) <= maxInterface && n != "." && n != ".." && !strings.ContainsAny(n, "/: \t\n\v\f\r\x00")
}

// timeOffsets checks the clocks of a time namespace, which can only be set in one that is new.
func (c *checker) timeOffsets(l *specs.Linux) {
	if len(l.TimeOffsets) == 0 {
		return
	}
	i := slices.IndexFunc(l.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.TimeNamespace })
	switch {
	case i < 0:
		c.errorf("linux.timeOffsets", "needs a time namespace in linux.namespaces")
	case l.Namespaces[i].Path != "":
		c.errorf("linux.timeOffsets", "a time namespace that is joined by its path has its offsets already")
	}
	for _, clock := range sortedKeys(l.TimeOffsets) {
		c.oneOf("linux.timeOffsets", clock, "monotonic", "boottime")
		c.between("linux.timeOffsets."+clip(clock)+".nanosecs", int64(l.TimeOffsets[clock].Nanosecs), 0, 999_999_999)
	}
}
