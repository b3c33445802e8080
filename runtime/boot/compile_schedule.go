package boot

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// schedule sets how the kernel schedules the process, its input and output, and where it takes memory from. All of it needs the
// privileges that the process is about to lose.
func (c *compiler) schedule(p *specs.Process) {
	if s := p.Scheduler; s != nil {
		c.scheduler(s)
	}
	if io := p.IOPriority; io != nil {
		c.ioPriority(io)
	}
	if m := c.spec.Linux.MemoryPolicy; m != nil {
		c.memoryPolicy(m)
	}
	if e := c.spec.Linux.Personality; e != nil {
		c.on("set personality "+string(e.Domain), "linux.personality")
		domain := slices.IndexFunc(namesPersonality.list, func(n name) bool { return n.text == "PER_"+string(e.Domain) })
		if domain < 0 {
			c.fail(fmt.Errorf("compile %s: personality %q is unknown (%[1]s: linux.personality.domain)", c.facts.Document, e.Domain))
			return
		}
		c.do(unix.SYS_PERSONALITY, symbol(namesPersonality.list[domain].value, namesPersonality))
	}
}

// schedulerPolicies are the values of sched_setattr(2).
var schedulerPolicies = []specs.LinuxSchedulerPolicy{
	specs.SchedOther, specs.SchedFIFO, specs.SchedRR, specs.SchedBatch, specs.SchedISO, specs.SchedIdle, specs.SchedDeadline,
}

// schedulerFlags are the bits of its flags, the lowest first.
var schedulerFlags = []specs.LinuxSchedulerFlag{
	specs.SchedFlagResetOnFork, specs.SchedFlagReclaim, specs.SchedFlagDLOverrun, specs.SchedFlagKeepPolicy, specs.SchedFlagKeepParams,
	specs.SchedFlagUtilClampMin, specs.SchedFlagUtilClampMax,
}

// scheduler sets the policy and its parameters.
func (c *compiler) scheduler(s *specs.Scheduler) {
	policy := slices.Index(schedulerPolicies, s.Policy)
	if policy < 0 {
		c.fail(fmt.Errorf("compile %s: policy %q is unknown (%[1]s: process.scheduler.policy)", c.facts.Document, s.Policy))
		return
	}
	attr := &unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: uint32(policy), Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}
	for i, f := range s.Flags {
		bit := slices.Index(schedulerFlags, f)
		if bit < 0 {
			c.fail(fmt.Errorf("compile %s: flag %q is unknown (%[1]s: %[3]s)", c.facts.Document, f, index("process.scheduler.flags", i)))
			return
		}
		attr.Flags |= 1 << bit
	}
	c.on("set scheduler "+string(s.Policy), "process.scheduler")
	call := c.do(unix.SYS_SCHED_SETATTR, number(0), memory(attr, showScheduler), number(0))
	switch r := c.spec.Linux.Resources; {
	case s.Policy == specs.SchedFIFO || s.Policy == specs.SchedRR:
		call.hint(unix.EPERM, "with cgroup v1 it may need linux.resources.cpu.realtimeRuntime")
	case r != nil && r.CPU != nil && r.CPU.Cpus != "":
		call.hint(unix.EPERM, "process scheduler can't be used together with AllowedCPUs (linux.resources.cpu.cpus) that are not all CPUs")
	}
}

func showScheduler(p unsafe.Pointer) string {
	a := (*unix.SchedAttr)(p)
	var flags []string
	for i, f := range schedulerFlags {
		if a.Flags&(1<<i) != 0 {
			flags = append(flags, string(f))
		}
	}
	return fmt.Sprintf("{%s, flags=%s, nice=%d, priority=%d, runtime=%d, deadline=%d, period=%d}", schedulerPolicies[a.Policy],
		cmp.Or(strings.Join(flags, "|"), "0"), a.Nice, a.Priority, a.Runtime, a.Deadline, a.Period)
}

// ioPriority sets class and priority for the process's group, which has no other member yet.
func (c *compiler) ioPriority(io *specs.LinuxIOPriority) {
	const wholeGroup, classShift = 2, 13 // IOPRIO_WHO_PGRP, IOPRIO_CLASS_SHIFT of ioprio_set(2)
	classes := []specs.IOPriorityClass{"", specs.IOPRIO_CLASS_RT, specs.IOPRIO_CLASS_BE, specs.IOPRIO_CLASS_IDLE}
	class := slices.Index(classes, io.Class)
	if class <= 0 {
		c.fail(fmt.Errorf("compile %s: class %q is unknown (%[1]s: process.ioPriority.class)", c.facts.Document, io.Class))
		return
	}
	c.on(fmt.Sprintf("set I/O priority %s %d", io.Class, io.Priority), "process.ioPriority")
	c.do(unix.SYS_IOPRIO_SET, symbol(wholeGroup, namesPriority), number(0), symbol(class<<classShift|io.Priority, namesIOClass))
}

// memoryModes are the modes of set_mempolicy(2) by number.
var memoryModes = []specs.MemoryPolicyModeType{
	specs.MpolDefault, specs.MpolPreferred, specs.MpolBind, specs.MpolInterleave, specs.MpolLocal, specs.MpolPreferredMany,
	specs.MpolWeightedInterleave,
}

// memoryFlags are its flags by bit, the one for 1<<13 first.
var memoryFlags = []specs.MemoryPolicyFlagType{specs.MpolFNumaBalancing, specs.MpolFRelativeNodes, specs.MpolFStaticNodes}

// memoryPolicy sets which memory nodes the process gets its memory from. It stays over execve.
func (c *compiler) memoryPolicy(m *specs.LinuxMemoryPolicy) {
	mode := slices.Index(memoryModes, m.Mode)
	if mode < 0 {
		c.fail(fmt.Errorf("compile %s: mode %q is unknown (%[1]s: linux.memoryPolicy.mode)", c.facts.Document, m.Mode))
		return
	}
	for i, f := range m.Flags {
		bit := slices.Index(memoryFlags, f)
		if bit < 0 {
			c.fail(fmt.Errorf("compile %s: flag %q is unknown (%[1]s: %[3]s)", c.facts.Document, f, index("linux.memoryPolicy.flags", i)))
			return
		}
		mode |= 1 << (13 + bit)
	}
	c.on("set memory policy "+string(m.Mode), "linux.memoryPolicy")
	if m.Nodes == "" {
		c.do(unix.SYS_SET_MEMPOLICY, symbol(mode, namesMempolicy), null(), number(0))
		return
	}
	mask, size := c.set(m.Nodes, "linux.memoryPolicy.nodes")
	c.do(unix.SYS_SET_MEMPOLICY, symbol(mode, namesMempolicy), mask, number(8*size+1)) // one bit more: the kernel takes one off
}

// affinity binds the process to CPUs.
func (c *compiler) affinity(list, path string) {
	c.on("set CPU affinity "+list, path)
	mask, size := c.set(list, path)
	c.do(unix.SYS_SCHED_SETAFFINITY, number(0), number(size), mask)
}

// enterCgroup joins the container's cgroup, from the CPUs and to those that the process asks for.
func (c *compiler) enterCgroup(a *specs.CPUAffinity) {
	if a != nil && a.Initial != "" {
		c.affinity(a.Initial, "process.execCPUAffinity.initial")
	} else {
		c.anywhere()
	}
	c.joinCgroup("")
	if a != nil && a.Final != "" {
		c.affinity(a.Final, "process.execCPUAffinity.final")
	}
}

// anywhere lifts what CPUs the runtime was bound to: that is not for the container to inherit. What its cgroup says holds all the same.
func (c *compiler) anywhere() {
	c.on("run on any CPU", "")
	all := new([maxSet / 8]byte)
	for i := range all {
		all[i] = 0xff
	}
	c.do(unix.SYS_SCHED_SETAFFINITY, number(0), number(len(all)), memory(all, func(unsafe.Pointer) string { return "[all]" })).tolerant()
}

// maxSet is the number of CPUs or memory nodes that a set can hold: the most that a kernel can be built for.
const maxSet = 8192

// set is a list such as 0-3,8 as a bit mask in memory, and the mask's size in bytes.
func (c *compiler) set(list, path string) (mask Arg, size int) {
	bits, err := parseSet(list)
	if err != nil {
		c.fail(fmt.Errorf("compile %s: %w (%[1]s: %[3]s)", c.facts.Document, err, path))
		return null(), 0
	}
	return memory(&bits[0], func(unsafe.Pointer) string { return "[" + list + "]" }), 8 * len(bits)
}

// parseSet turns a list such as 0-3,8 into a bit mask.
func parseSet(list string) ([]uint64, error) {
	bits := make([]uint64, 1)
	for part := range strings.SplitSeq(list, ",") {
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil || from > to || to >= maxSet {
			return nil, fmt.Errorf("%q is not a list such as 0-3,8", list)
		}
		for n := from; n <= to; n++ {
			for uint64(len(bits)) <= n/64 {
				bits = append(bits, 0)
			}
			bits[n/64] |= 1 << (n % 64)
		}
	}
	return bits, nil
}

var (
	namesPersonality = &names{zero: "PER_LINUX", exact: true, list: []name{{0, "PER_LINUX"}, {8, "PER_LINUX32"}}}
	namesPriority    = &names{exact: true, list: []name{{2, "IOPRIO_WHO_PGRP"}}}
	namesIOClass     = &names{list: []name{
		{3 << 13, "IOPRIO_CLASS_IDLE"}, {2 << 13, "IOPRIO_CLASS_BE"}, {1 << 13, "IOPRIO_CLASS_RT"},
	}}
	namesMempolicy = &names{zero: "MPOL_DEFAULT", list: []name{
		{1 << 15, "MPOL_F_STATIC_NODES"},
		{1 << 14, "MPOL_F_RELATIVE_NODES"},
		{1 << 13, "MPOL_F_NUMA_BALANCING"},
		{6, "MPOL_WEIGHTED_INTERLEAVE"},
		{unix.MPOL_PREFERRED_MANY, "MPOL_PREFERRED_MANY"},
		{unix.MPOL_LOCAL, "MPOL_LOCAL"},
		{unix.MPOL_INTERLEAVE, "MPOL_INTERLEAVE"},
		{unix.MPOL_BIND, "MPOL_BIND"},
		{unix.MPOL_PREFERRED, "MPOL_PREFERRED"},
	}}
)
