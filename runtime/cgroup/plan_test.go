package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// everywhere is a host with every controller on v1, and one with v2 only; neither exists.
var (
	everywhere = &Cgroup{path: "/c", trees: []*hierarchy{{mount: "/v1", names: v1Controllers}}}
	modern     = &Cgroup{path: "/c", trees: []*hierarchy{{mount: "/v2", names: []string{""}, unified: true}}}
)

// planned is a plan in words: the writes in their order, those of a knot in braces.
func planned(t *testing.T, c *Cgroup, res *specs.LinuxResources) string {
	t.Helper()
	tasks, _, err := c.plan(res)
	if err != nil {
		return "error: " + err.Error()
	}
	var out []string
	for _, task := range tasks {
		for _, k := range task.knots {
			var part []string
			for _, w := range k {
				text := w.file + "=" + w.value
				if w.instead != nil {
					text += " or " + w.instead.file + "=" + w.instead.value
				}
				part = append(part, text)
			}
			text := strings.Join(part, ", ")
			if len(k) > 1 {
				text = "{" + text + "}"
			}
			out = append(out, text)
		}
	}
	return strings.Join(out, "; ")
}

// planCase is limits and the plans for them.
type planCase struct {
	res    specs.LinuxResources
	v1, v2 string
}

// disk is a device with limits.
var disk = specs.LinuxBlockIODevice{Major: 8, Minor: 16}

// memoryAndCPU are the controllers with rules.
var memoryAndCPU = map[string]planCase{
	"nothing": {},
	"memory": {
		specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(150)), Reservation: ptr(int64(50))}},
		"{memory.limit_in_bytes=100, memory.memsw.limit_in_bytes=150}; memory.soft_limit_in_bytes=50",
		"memory.swap.max=50; memory.max=100; memory.low=50",
	},
	"no swap": {
		specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(100))}},
		"{memory.limit_in_bytes=100, memory.memsw.limit_in_bytes=100}",
		"memory.swap.max=0; memory.max=100",
	},
	"memory without a limit takes swap along": {
		specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}},
		"{memory.limit_in_bytes=-1, memory.memsw.limit_in_bytes=-1}",
		"memory.swap.max=max; memory.max=max",
	},
	"swap without a limit": {
		specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: ptr(int64(100))}},
		"memory.memsw.limit_in_bytes=100",
		"error: set swap: needs a memory limit, as it is the sum of memory and swap (config.json: linux.resources.memory.swap)",
	},
	"what the kernel has no longer": {
		//lint:ignore SA1019 it is still sent
		specs.LinuxResources{Memory: &specs.LinuxMemory{Kernel: ptr(int64(1)), KernelTCP: ptr(int64(1)), DisableOOMKiller: ptr(false)}},
		"", "",
	},
	"memory of v1": {
		specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: ptr(uint64(0)), DisableOOMKiller: ptr(true), UseHierarchy: ptr(true)}},
		"memory.oom_control=1; memory.use_hierarchy=1; memory.swappiness=0",
		"error: set swappiness: cgroup v2 has none: unsupported operation (config.json: linux.resources.memory.swappiness)",
	},
	"cpu": {
		specs.LinuxResources{CPU: &specs.LinuxCPU{
			Shares: ptr(uint64(1024)), Quota: ptr(int64(5)), Period: ptr(uint64(10)), Burst: ptr(uint64(0)), Cpus: "0-1", Mems: "0",
		}},
		"cpu.shares=1024; {cpu.cfs_period_us=10, cpu.cfs_burst_us=0, cpu.cfs_quota_us=5}; cpuset.cpus=0-1; cpuset.mems=0",
		"cpu.weight=100; {cpu.max.burst=0, cpu.max=5 10}; cpuset.cpus=0-1; cpuset.mems=0",
	},
	"quota without a period": {
		specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(5))}}, "cpu.cfs_quota_us=5", "cpu.max=5 100000",
	},
	"period without a quota": {
		specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(-1)), Period: ptr(uint64(10))}},
		"{cpu.cfs_period_us=10, cpu.cfs_quota_us=-1}", "cpu.max=max 10",
	},
	"idle has no shares": {
		specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(100)), Idle: ptr(int64(1))}}, "cpu.idle=1", "cpu.idle=1",
	},
	"idle no more": {
		specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(100)), Idle: ptr(int64(0))}},
		"cpu.idle=0; cpu.shares=100", "cpu.idle=0; cpu.weight=17",
	},
	"real time": {
		specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimePeriod: ptr(uint64(10)), RealtimeRuntime: ptr(int64(5))}},
		"{cpu.rt_period_us=10, cpu.rt_runtime_us=5}",
		"error: set real-time quota: cgroup v2 has none: unsupported operation (config.json: linux.resources.cpu.realtimeRuntime)",
	},
	"pids":      {specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(7))}}, "pids.max=7", "pids.max=7"},
	"no pids":   {specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}}, "pids.max=1", "pids.max=1"},
	"many pids": {specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}, "pids.max=max", "pids.max=max"},
}

// otherLimits are those that are written as they are.
var otherLimits = map[string]planCase{
	"weights": {
		specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
			Weight: ptr(uint16(750)), WeightDevice: []specs.LinuxWeightDevice{{LinuxBlockIODevice: disk, Weight: ptr(uint16(10))}},
		}},
		"blkio.weight=750 or blkio.bfq.weight=750; blkio.weight_device=8:16 10 or blkio.bfq.weight_device=8:16 10",
		"io.bfq.weight=default 750 or io.weight=default 7475; io.bfq.weight=8:16 10 or io.weight=8:16 1",
	},
	"throttles": {
		specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{
			ThrottleReadBpsDevice:   []specs.LinuxThrottleDevice{{LinuxBlockIODevice: disk, Rate: 1}},
			ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: disk, Rate: 0}},
		}},
		"blkio.throttle.read_bps_device=8:16 1; blkio.throttle.write_iops_device=8:16 0",
		"io.max=8:16 rbps=1; io.max=8:16 wiops=max",
	},
	"huge pages": {
		specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 5}}},
		"hugetlb.2MB.limit_in_bytes=5; hugetlb.2MB.rsvd.limit_in_bytes=5", "hugetlb.2MB.max=5; hugetlb.2MB.rsvd.max=5",
	},
	"rdma": {
		specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"mlx": {HcaHandles: ptr(uint32(3)), HcaObjects: ptr(uint32(4))}}},
		"rdma.max=mlx hca_handle=3 hca_object=4", "rdma.max=mlx hca_handle=3 hca_object=4",
	},
	"network": {
		specs.LinuxResources{Network: &specs.LinuxNetwork{
			ClassID: ptr(uint32(0x100001)), Priorities: []specs.LinuxInterfacePriority{{Name: "lo", Priority: 3}},
		}},
		"net_cls.classid=1048577; net_prio.ifpriomap=lo 3",
		"error: set net_cls: cgroup v2 has no net_cls controller: unsupported operation (config.json: linux.resources.network.classID)",
	},
	"zeros": {specs.LinuxResources{
		CPU:     &specs.LinuxCPU{Shares: ptr(uint64(0)), Period: ptr(uint64(0)), Quota: ptr(int64(0))},
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(0)), Swap: ptr(int64(0))},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(0))}, Network: &specs.LinuxNetwork{ClassID: ptr(uint32(0))},
	}, "", ""},
}

func TestPlan(t *testing.T) {
	for _, cases := range []map[string]planCase{memoryAndCPU, otherLimits} {
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				if got := planned(t, everywhere, &c.res); got != c.v1 {
					t.Errorf("v1:\n%s\nwant\n%s", got, c.v1)
				}
				if got := planned(t, modern, &c.res); got != c.v2 {
					t.Errorf("v2:\n%s\nwant\n%s", got, c.v2)
				}
			})
		}
	}
}

// TestPlanOfHybrid: a controller that only the v2 tree has is used there.
func TestPlanOfHybrid(t *testing.T) {
	v2 := t.TempDir()
	if err := os.WriteFile(filepath.Join(v2, "cgroup.controllers"), []byte("hugetlb misc\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := &Cgroup{path: "/c", trees: []*hierarchy{
		{mount: "/v1", names: []string{"memory"}}, {mount: v2, names: []string{""}, unified: true},
	}}
	res := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(1))}, HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 5}},
	}
	tasks, needed, err := c.plan(res)
	if err != nil || len(tasks) != 2 || tasks[0].dir != "/v1/c" || tasks[1].dir != v2+"/c" || strings.Join(needed, " ") != "hugetlb" {
		t.Errorf("%+v, %v, %v", tasks, needed, err)
	}
	if _, _, err := c.plan(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(1))}}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("pids: %v", err)
	}
	if _, err := c.unifiedControllers(map[string]string{"hugetlb.2MB.max": "0", "cgroup.max.depth": "3"}); err != nil {
		t.Errorf("unified values of the v2 tree: %v", err)
	}
	for _, key := range []string{"memory.min", "memory", "../x.y", ".x"} {
		if _, err := c.unifiedControllers(map[string]string{key: "0"}); err == nil {
			t.Errorf("unified %s: no error", key)
		}
	}
}

// TestKnot: the order in which values can be written is found, whatever is in the files before.
func TestKnot(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		offers(t, trees, "cpu", "memory")
		c := group(t, trees, nil)
		if c.unifiedOnly() {
			t.Skip("needs values that depend on each other, of cgroup v1")
		}
		for _, mib := range []int64{30, 60, 500, 20} {
			limit, swap := mib<<20, (mib+20)<<20
			if err := c.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap}}); err != nil {
				t.Errorf("%d MiB: %v", mib, err)
			}
		}
		if err := c.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}}); err != nil {
			t.Error(err)
		}
		parent := c
		limit := &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(50000)), Period: ptr(uint64(100000))}}
		if err := parent.Set(limit); err != nil {
			t.Fatal(err)
		}
		below, err := createIn(trees, parent.Path()+"/below", limit)
		if err != nil {
			t.Fatal(err)
		}
		if err := below.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(60000))}}); err == nil {
			t.Error("more than the parent has: no error")
		}
		// A period of 10000 with the old quota would be more than the parent has.
		if err := below.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(3000)), Period: ptr(uint64(10000))}}); err != nil {
			t.Error(err)
		}
	})
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 100: 17, 512: 59, 1024: 100, 262144: 10000, 1 << 40: 10000} {
		if got := weight(shares); got != want {
			t.Errorf("weight(%d) = %d, want %d", shares, got, want)
		}
	}
}

func TestSharesOutOfRange(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		offers(t, trees, "cpu")
		c := group(t, trees, nil)
		if c.unifiedOnly() {
			t.Skip("v2 has no shares, and what they are converted to is in range")
		}
		for shares, want := range map[uint64]string{1: "the minimum allowed cpu.shares is 2", 1 << 30: "the maximum allowed cpu.shares is 262144"} {
			err := c.Set(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}})
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%d shares: %v, want %s", shares, err, want)
			}
		}
	})
}
