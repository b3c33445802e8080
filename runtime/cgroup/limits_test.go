package cgroup

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// offers skips a test where the controller is not to be had, as on the v2 tree of a hybrid host.
func offers(t *testing.T, trees []*hierarchy, controllers ...string) {
	t.Helper()
	c := &Cgroup{trees: trees}
	for _, name := range controllers {
		if c.tree(name) != nil {
			continue
		}
		if h := c.tree(""); h != nil && c.unifiedOnly() {
			offered, err := readFile(h.mount + "/cgroup.controllers")
			if err == nil && strings.Contains(" "+offered+" ", " "+name+" ") {
				continue
			}
		}
		t.Skipf("needs the %s controller, which %s does not have here", name, modeOf(trees))
	}
}

// file is where a value is to be read back from, in v1 and v2.
type file struct{ controller, v1, v2, want1, want2 string }

func (f file) check(t *testing.T, c *Cgroup) {
	t.Helper()
	if c.unifiedOnly() {
		if got := content(t, c, "", f.v2); got != f.want2 {
			t.Errorf("%s is %q, want %q", f.v2, got, f.want2)
		}
		return
	}
	if got := content(t, c, f.controller, f.v1); got != f.want1 {
		t.Errorf("%s is %q, want %q", f.v1, got, f.want1)
	}
}

func TestLimitsAreInPlace(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		offers(t, trees, "cpu", "cpuset", "memory", "pids")
		c := group(t, trees, &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Reservation: ptr(int64(32 << 20)), Swap: ptr(int64(64 << 20))},
			CPU: &specs.LinuxCPU{
				Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Shares: ptr(uint64(512)),
				Burst: ptr(uint64(10000)), Cpus: "0", Mems: "0",
			},
			Pids: &specs.LinuxPids{Limit: ptr(int64(42))},
		})
		for _, f := range []file{
			{"memory", "memory.limit_in_bytes", "memory.max", "67108864", "67108864"},
			{"memory", "memory.soft_limit_in_bytes", "memory.low", "33554432", "33554432"},
			{"cpu", "cpu.cfs_quota_us", "cpu.max", "50000", "50000 100000"},
			{"cpu", "cpu.cfs_period_us", "cpu.max", "100000", "50000 100000"},
			{"cpu", "cpu.cfs_burst_us", "cpu.max.burst", "10000", "10000"},
			{"cpu", "cpu.shares", "cpu.weight", "512", "59"},
			{"cpuset", "cpuset.cpus", "cpuset.cpus", "0", "0"},
			{"cpuset", "cpuset.mems", "cpuset.mems", "0", "0"},
			{"pids", "pids.max", "pids.max", "42", "42"},
		} {
			f.check(t, c)
		}
		if limit, err := c.MemoryLimit(); limit != 64<<20 || err != nil {
			t.Errorf("MemoryLimit is %d, %v", limit, err)
		}
	})
}

func TestNoLimits(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		for name, res := range map[string]*specs.LinuxResources{
			"nothing": nil,
			"none": {
				Memory: &specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(-1))},
				Pids:   &specs.LinuxPids{Limit: ptr(int64(-1))}, CPU: &specs.LinuxCPU{Quota: ptr(int64(-1))},
			},
			"zeros": {
				Memory: &specs.LinuxMemory{Limit: ptr(int64(0))}, Pids: &specs.LinuxPids{},
				CPU: &specs.LinuxCPU{Quota: ptr(int64(0)), Shares: ptr(uint64(0)), Period: ptr(uint64(0))},
			},
		} {
			c := group(t, trees, res)
			if limit, err := c.MemoryLimit(); limit != -1 || err != nil {
				t.Errorf("%s: MemoryLimit is %d, %v", name, limit, err)
			}
			start(t, c, "read x") // which an empty cpuset would refuse
		}
	})
}

// TestMemoryLimitKills: the kernel enforces the limit, and the statistics count it.
func TestMemoryLimitKills(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		offers(t, trees, "memory")
		c := group(t, trees, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(16 << 20))}})
		before, err := c.Stats()
		if err != nil {
			t.Fatal(err)
		}
		p := start(t, c, `head -c 100000000 /dev/zero | tail -c 100000000 >/dev/null; echo done`)
		if line := p.line(t); line != "done" {
			t.Errorf("says %q", line)
		}
		after, err := c.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if before.OOMKills != 0 || after.OOMKills == 0 || after.MemoryPeak == 0 || after.MemoryPeak > 16<<20 {
			t.Errorf("before: %+v, after: %+v", before, after)
		}
	})
}

func TestPidsLimitHolds(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		offers(t, trees, "pids")
		c := group(t, trees, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(4))}})
		p := start(t, c, `exec 2>/dev/null; for i in 1 2 3; do sleep 1000 & done; echo three; sleep 1000 & echo four; read x`)
		if line := p.line(t); line != "three" {
			t.Fatalf("says %q", line)
		}
		p.wait(t) // a shell that cannot fork gives up
		if left := procs(t, c); len(left) != 3 {
			t.Errorf("%v are left", left)
		}
		st, err := c.Stats()
		if err != nil || st.Pids != 3 {
			t.Errorf("statistics: %+v, %v", st, err)
		}
	})
}

func TestQuotaThrottles(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		offers(t, trees, "cpu")
		c := group(t, trees, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(1000)), Period: ptr(uint64(20000))}})
		start(t, c, "while :; do :; done")
		eventually(t, "throttled", func() bool {
			st, err := c.Stats()
			return err == nil && st.Throttled > 2 && st.CPUNanos > 0
		})
	})
}

// TestDeviceRules tries devices from inside, on v1 and through the filter of v2: rules are enforced in their order, the devices
// that every container has are there, and reading does not include writing.
func TestDeviceRules(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		if _, err := os.Stat("/dev/kmsg"); err != nil {
			t.Skip("needs /dev/kmsg")
		}
		kmsg := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(11))}
		with := func(access string) specs.LinuxDeviceCgroup {
			r := kmsg
			r.Access = access
			return r
		}
		not := func(r specs.LinuxDeviceCgroup) specs.LinuxDeviceCgroup {
			r.Allow = false
			return r
		}
		none := specs.LinuxDeviceCgroup{Access: "rwm"}
		every := specs.LinuxDeviceCgroup{Allow: true, Access: "rwm"}
		for name, c := range map[string]struct {
			rules []specs.LinuxDeviceCgroup
			want  string // what can be done: open /dev/kmsg to read, write, both
		}{
			"no rules":         {nil, "r w rw"},
			"none":             {[]specs.LinuxDeviceCgroup{none}, ""},
			"read":             {[]specs.LinuxDeviceCgroup{none, with("r")}, "r"},
			"read, then write": {[]specs.LinuxDeviceCgroup{none, with("rw")}, "r w rw"},
			"all but this":     {[]specs.LinuxDeviceCgroup{every, not(with("rwm"))}, ""},
			"all but writing":  {[]specs.LinuxDeviceCgroup{every, not(with("w"))}, "r"},
			"none at last":     {[]specs.LinuxDeviceCgroup{with("rw"), none}, ""},
		} {
			t.Run(name, func(t *testing.T) {
				g := group(t, trees, &specs.LinuxResources{Devices: c.rules})
				p := start(t, g, `exec 2>/dev/null
					(: < /dev/kmsg) && echo r; (: >> /dev/kmsg) && echo w; (: <> /dev/kmsg) && echo rw
					(: <> /dev/null && : < /dev/urandom && head -c 1 /dev/zero > /dev/null) && echo usual; echo end`)
				var got []string
				for {
					line := p.line(t)
					if line == "end" {
						break
					}
					got = append(got, line)
				}
				if want := strings.TrimSpace(c.want + " usual"); strings.Join(got, " ") != want {
					t.Errorf("%q is possible, want %q", strings.Join(got, " "), want)
				}
			})
		}
	})
}

// TestDeviceRulesAreReplaced: later rules allow what earlier ones did not, and there is one program.
func TestDeviceRulesAreReplaced(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		none := specs.LinuxDeviceCgroup{Access: "rwm"}
		kmsg := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(11)), Access: "r"}
		g := group(t, trees, &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{none}})
		p := start(t, g, `exec 2>/dev/null; (: < /dev/kmsg) && echo yes || echo no; kill -STOP $$; (: < /dev/kmsg) && echo yes || echo no; read x`)
		if line := p.line(t); line != "no" {
			t.Errorf("at first: %s", line)
		}
		for _, rules := range [][]specs.LinuxDeviceCgroup{{none, kmsg}, {none}, {none, kmsg}} {
			if err := g.Set(&specs.LinuxResources{Devices: rules}); err != nil {
				t.Fatal(err)
			}
		}
		stopped(t, p)
		if err := unix.Kill(p.Process.Pid, unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
		if line := p.line(t); line != "yes" {
			t.Errorf("after the others: %s", line)
		}
	})
}

// stopped waits until a child has stopped itself.
func stopped(t *testing.T, p *child) {
	t.Helper()
	eventually(t, "stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
		return err == nil && strings.Contains(string(stat), ") T ")
	})
}

func TestLimitsThatTheHostLacks(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		unified := (&Cgroup{trees: trees}).unifiedOnly()
		for field, res := range map[string]*specs.LinuxResources{
			"hugepageLimits[x]":  {HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "3MB", Limit: 1}}},
			"network.priorities": {Network: &specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{Name: "lo", Priority: 1}}}},
			"rdma":               {Rdma: map[string]specs.LinuxRdma{"mlx5_9": {HcaHandles: ptr(uint32(1)), HcaObjects: ptr(uint32(1))}}},
			"unified":            {Unified: map[string]string{"memory.nonsense": "1"}},
		} {
			if field == "network.priorities" && (&Cgroup{trees: trees}).tree("net_prio") != nil {
				continue
			}
			_, err := createIn(trees, uniquePath(), res)
			if err == nil || !strings.Contains(err.Error(), "config.json: linux.resources") {
				t.Errorf("%s: says %v", field, err)
				continue
			}
			if !unified && !errors.Is(err, errors.ErrUnsupported) && field != "rdma" {
				t.Errorf("%s: %v is not ErrUnsupported", field, err)
			}
		}
	})
}
