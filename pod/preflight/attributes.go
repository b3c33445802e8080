package preflight

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/spec"
)

// Codes of attributes of a container that neither CRIU nor zap carries.
const (
	BlockRDT        = "intel-rdt"     // a class of service of the host's
	BlockNetDevice  = "net-device"    // a network device that was lent by the host
	BlockMemPolicy  = "memory-policy" // CRIU does not save it
	BlockIOPriority = "io-priority"   // likewise
	BlockScheduler  = "scheduler"     // likewise for SCHED_DEADLINE
)

// Attributes returns the reasons why a container can't move that its specification gives: what is this host's own, and what would silently
// be gone on the target. name is the container's.
func Attributes(name string, s *specs.Spec) []spec.Blocker {
	var out []spec.Blocker
	add := func(code, detail, hint string) {
		out = append(out, spec.Blocker{Code: code, Subject: name, Detail: detail, Hint: hint})
	}
	if p := s.Process; p != nil && p.IOPriority != nil {
		add(BlockIOPriority, "it has an I/O priority, which CRIU does not save", "run it without process.ioPriority")
	}
	if p := s.Process; p != nil && p.Scheduler != nil && p.Scheduler.Policy == specs.SchedDeadline {
		add(BlockScheduler, "CRIU can't save SCHED_DEADLINE", "run it with another process.scheduler.policy")
	}
	l := s.Linux
	if l == nil {
		return out
	}
	if l.IntelRdt != nil {
		add(BlockRDT, "it is in a class of service of this host's resource director", "run it without linux.intelRdt")
	}
	if len(l.NetDevices) > 0 {
		add(BlockNetDevice, "it has network devices of this host", "run it without linux.netDevices")
	}
	if m := l.MemoryPolicy; m != nil && m.Mode != specs.MpolDefault {
		add(BlockMemPolicy, "it has a memory policy, which CRIU does not save", "run it without linux.memoryPolicy")
	}
	return out
}
