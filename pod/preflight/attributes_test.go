package preflight

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/spec"
)

// TestAttributes wants each attribute that does not travel to be named, and none of the others.
func TestAttributes(t *testing.T) {
	s := spec.Default()
	s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 3}
	s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux}
	s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolDefault}
	if got := Attributes("web", s); len(got) != 0 {
		t.Errorf("got %v", got)
	}
	s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline}
	s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE}
	s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}
	s.Linux.IntelRdt = &specs.LinuxIntelRdt{}
	s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}}
	var codes []string
	for _, b := range Attributes("web", s) {
		if codes = append(codes, b.Code); b.Subject != "web" || b.Hint == "" {
			t.Errorf("blocker %+v", b)
		}
	}
	if want := []string{BlockIOPriority, BlockScheduler, BlockRDT, BlockNetDevice, BlockMemPolicy}; !slices.Equal(codes, want) {
		t.Errorf("got %q, want %q", codes, want)
	}
}
