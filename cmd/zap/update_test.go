package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/cgroup"
)

// limit is a file of a container's cgroup: of a v1 controller, or of v2.
type limit struct{ controller, v1, v2, want1, want2 string }

// limits wants values in the cgroup of container one.
func (l *ociLab) limits(step string, all ...limit) {
	l.t.Helper()
	cg, err := cgroup.Load(l.spec.Linux.CgroupsPath)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range all {
		file, want := f.v1, f.want1
		dir, ok := cg.Paths()[f.controller]
		if !ok {
			dir, file, want = cg.UnifiedDir(), f.v2, f.want2
		}
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			l.t.Errorf("%s: %v", step, err)
			continue
		}
		if got := strings.TrimSpace(string(text)); got != want {
			l.t.Errorf("%s: %s is %q, want %q", step, file, got, want)
		}
	}
}

func memoryIs(v1, v2 string) limit {
	return limit{"memory", "memory.limit_in_bytes", "memory.max", v1, v2}
}

func pidsAre(n string) limit { return limit{"pids", "pids.max", "pids.max", n, n} }

func quotaIs(n, both string) limit {
	return limit{"cpu", "cpu.cfs_quota_us", "cpu.max", n, both}
}

func periodIs(n, both string) limit {
	return limit{"cpu", "cpu.cfs_period_us", "cpu.max", n, both}
}

func sharesAre(n, weight string) limit { return limit{"cpu", "cpu.shares", "cpu.weight", n, weight} }

const (
	noMemoryLimit = "9223372036854771712" // v1's largest number of whole pages
	mib           = 1 << 20
)

// withLimits starts a container that has some.
func withLimits(t *testing.T) *ociLab {
	l := newOCILab(t)
	l.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(32 * mib)), Reservation: new(int64(24 * mib))}
	l.spec.Linux.Resources.CPU = &specs.LinuxCPU{Shares: new(uint64(100)), Quota: new(int64(500000)), Period: new(uint64(1000000))}
	l.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(20))}
	l.program("sleep 1000")
	l.start("one")
	return l
}

func TestUpdateFlags(t *testing.T) {
	l := withLimits(t)
	l.limits("at first", memoryIs("33554432", "33554432"), pidsAre("20"), quotaIs("500000", "500000 1000000"), sharesAre("100", "17"))
	l.must("update", "one", "--memory", "50M", "--memory-reservation", "33554432", "--pids-limit", "10")
	l.limits("memory", memoryIs("52428800", "52428800"), pidsAre("10"),
		limit{"memory", "memory.soft_limit_in_bytes", "memory.low", "33554432", "33554432"})
	l.must("update", "--cpu-period", "900000", "one")
	l.limits("period", quotaIs("500000", "500000 900000"), periodIs("900000", "500000 900000"))
	l.must("update", "--cpu-quota=600000", "--cpu-share=200", "--cpu-burst", "1000", "one")
	l.limits("quota", quotaIs("600000", "600000 900000"), sharesAre("200", "29"),
		limit{"cpu", "cpu.cfs_burst_us", "cpu.max.burst", "1000", "1000"})
	l.must("update", "one", "--cpu-quota", "-1", "--memory", "-1", "--pids-limit", "-1")
	l.limits("none", quotaIs("-1", "max 900000"), periodIs("900000", "max 900000"), memoryIs(noMemoryLimit, "max"), pidsAre("max"))
	l.must("update", "one", "--pids-limit", "0", "--cpuset-cpus", "0", "--cpuset-mems", "0")
	l.limits("few", pidsAre("1"), limit{"cpuset", "cpuset.cpus", "cpuset.cpus", "0", "0"})
	for _, idle := range []string{"1", "0", "1"} {
		l.must("update", "one", "--cpu-idle", idle)
		l.limits("idle "+idle, limit{"cpu", "cpu.idle", "cpu.idle", idle, idle})
	}
	if _, _, code := l.zap("update", "one", "--cpu-idle", "3"); code != 1 {
		t.Errorf("idle 3: exit code %d", code)
	}
	l.limits("idle 3", limit{"cpu", "cpu.idle", "cpu.idle", "1", "1"})
	l.must("update", "one", "--cpu-idle", "0")
	l.limits("idle no more", sharesAre("200", "29"))

	l.refused(1, "invalid value for cpu-period", "update", "one", "--cpu-period", "x")
	l.refused(1, "invalid value for memory", "update", "one", "--memory", "much")
	l.refused(1, "l3 cache schema is not enabled", "update", "one", "--l3-cache-schema", "L3:0=f")
	l.refused(1, "does not exist", "update", "two", "--memory", "1G")
	if _, errs, code := l.zap("update", "one", "--kernel-memory", "1G"); code != 0 || !strings.Contains(errs, "kernel memory") {
		t.Errorf("kernel memory: exit code %d, %q", code, errs)
	}
	l.must("kill", "one", "KILL")
	l.until("one", "stopped")
	l.refused(1, "container not running", "update", "one", "--memory", "1G")
}

// TestUpdateResources reads limits from a file and from standard input, and finds what they are in the container's state.
func TestUpdateResources(t *testing.T) {
	l := withLimits(t)
	file := filepath.Join(t.TempDir(), "limits.json")
	if err := os.WriteFile(file, []byte(`{"memory": {"limit": 67108864}, "CPU": {"Shares": 300}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	l.must("pause", "one")
	l.must("update", "-r", file, "one")
	if s := l.statusOf("one"); s != "paused" {
		t.Errorf("status %s after an update", s)
	}
	l.limits("file", memoryIs("67108864", "67108864"), sharesAre("300", "39"), quotaIs("500000", "500000 1000000"), pidsAre("20"))
	cmd := l.command("update", "--resources", "-", "one", "--memory", "1G") // flags don't count
	cmd.Stdin = strings.NewReader(`{"pids": {"limit": 12345}, "devices": [{"allow": false, "access": "rwm"}]}`)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("standard input: %v, %s", err, out)
	}
	l.limits("standard input", memoryIs("67108864", "67108864"), pidsAre("12345"))
	c, err := runtime.New(l.root, nil).Load("one")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(c.State().Bundle.Spec.Linux.Resources)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"limit":67108864`, `"reservation":25165824`, `"shares":300`, `"quota":500000`, `"limit":12345`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not in the state: %s", want, text)
		}
	}
	// What can't be set takes back what was set before it.
	cmd = l.command("update", "-r", "-", "one")
	cmd.Stdin = strings.NewReader(`{"memory": {"limit": 33554432}, "cpu": {"shares": 400, "cpus": "4000"}}`)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "(standard input: cpu.cpus)") {
		t.Errorf("a processor that is not there: %v, %s", err, out)
	}
	l.limits("after a failure", memoryIs("67108864", "67108864"), sharesAre("300", "39"))
	cmd = l.command("update", "-r", "-", "one")
	cmd.Stdin = strings.NewReader(`{"unified": {"memory": "1"}}`)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "not the name of a file of cgroup v2") {
		t.Errorf("a bad key: %v, %s", err, out)
	}
}
