package cgroup

import (
	"os"
	"strconv"
	"strings"
)

// tick is one clock tick of the kernel's older interfaces in nanoseconds; there are 100 a second on all platforms of Linux.
const tick = 1e9 / 100

func legacyThrottling(m *Metrics, dir string) error {
	f := &files{dir: dir}
	stat := f.keyed("cpu.stat")
	m.CPU.Throttling = Throttling{Periods: stat["nr_periods"], Throttled: stat["nr_throttled"], Time: stat["throttled_time"]}
	return f.err
}

func legacyCPUUsage(m *Metrics, dir string) error {
	f := &files{dir: dir}
	stat := f.keyed("cpuacct.stat")
	u := CPUUsage{
		Total: f.number("cpuacct.usage"), PerCPU: f.numbers("cpuacct.usage_percpu"),
		User: stat["user"] * tick, Kernel: stat["system"] * tick,
	}
	_, rows, _ := strings.Cut(f.text("cpuacct.usage_all"), "\n") // without its title
	for row := range strings.SplitSeq(rows, "\n") {
		if words := strings.Fields(row); len(words) >= 3 {
			u.PerCPUUser, u.PerCPUKernel = append(u.PerCPUUser, number(words[1])), append(u.PerCPUKernel, number(words[2]))
		}
	}
	m.CPU.Usage = u
	return f.err
}

func legacyCPUSet(m *Metrics, dir string) error {
	f := &files{dir: dir + "cpuset."}
	level, _ := strconv.ParseInt(f.text("sched_relax_domain_level"), 10, 64)
	m.CPUSet = CPUSetMetrics{
		CPUs: f.list("cpus"), CPUExclusive: f.number("cpu_exclusive"),
		Mems: f.list("mems"), MemHardwall: f.number("mem_hardwall"), MemExclusive: f.number("mem_exclusive"),
		MemoryMigrate: f.number("memory_migrate"), MemorySpreadPage: f.number("memory_spread_page"),
		MemorySpreadSlab: f.number("memory_spread_slab"), MemoryPressure: f.number("memory_pressure"),
		SchedLoadBalance: f.number("sched_load_balance"), SchedRelaxDomainLevel: level,
	}
	return f.err
}

func legacyMemoryMetrics(m *Metrics, dir string) error {
	f := &files{dir: dir}
	entry := func(kind string) MemoryEntry {
		return MemoryEntry{
			Limit: f.number(kind + ".limit_in_bytes"), Usage: f.number(kind + ".usage_in_bytes"),
			Max: f.number(kind + ".max_usage_in_bytes"), Failcnt: f.number(kind + ".failcnt"),
		}
	}
	raw := f.keyed("memory.stat")
	m.Memory = MemoryMetrics{
		Cache: raw["cache"], Usage: entry("memory"), Swap: entry("memory.memsw"), Kernel: entry("memory.kmem"),
		KernelTCP: entry("memory.kmem.tcp"), Raw: raw,
	}
	return f.err
}

// legacyBlockIOMetrics reads what the scheduler counts, BFQ or the older CFQ, or else what throttling does.
func legacyBlockIOMetrics(m *Metrics, dir string) error {
	f := &files{dir: dir + "blkio."}
	b := &m.BlockIO
	for _, by := range []string{"bfq.", ""} {
		b.Serviced = f.blockIO(by + "io_serviced_recursive")
		b.ServiceBytes = f.blockIO(by + "io_service_bytes_recursive")
		b.Queued, b.ServiceTime = f.blockIO(by+"io_queued_recursive"), f.blockIO(by+"io_service_time_recursive")
		b.WaitTime, b.Merged = f.blockIO(by+"io_wait_time_recursive"), f.blockIO(by+"io_merged_recursive")
		b.Time, b.Sectors = f.blockIO(by+"time_recursive"), f.blockIO(by+"sectors_recursive")
		if len(b.Serviced) > 0 {
			return f.err
		}
	}
	for _, end := range []string{"_recursive", ""} {
		if b.Serviced = f.blockIO("throttle.io_serviced" + end); len(b.Serviced) > 0 {
			b.ServiceBytes = f.blockIO("throttle.io_service_bytes" + end)
			break
		}
	}
	return f.err
}

// blockIO reads lines of a device, an operation that may be missing, and a count: "8:0 Read 12".
func (f *files) blockIO(name string) []BlockIOEntry {
	var out []BlockIOEntry
	for line := range strings.SplitSeq(f.text(name), "\n") {
		words := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ':' })
		if len(words) < 3 { // the total of all devices
			continue
		}
		e := BlockIOEntry{Major: number(words[0]), Minor: number(words[1]), Value: number(words[len(words)-1])}
		if len(words) > 3 {
			e.Op = words[2]
		}
		out = append(out, e)
	}
	return out
}

func legacyHugeMetrics(m *Metrics, dir string) error {
	f := &files{dir: dir}
	for _, size := range pageSizes(dir, ".usage_in_bytes") {
		at := "hugetlb." + size
		if exists(dir + at + ".rsvd.usage_in_bytes") {
			at += ".rsvd"
		}
		m.Hugetlb[size] = HugeMetrics{
			Usage: f.number(at + ".usage_in_bytes"), Max: f.number(at + ".max_usage_in_bytes"), Failcnt: f.number(at + ".failcnt"),
		}
	}
	return f.err
}

// dirNames lists a directory; nothing when it is gone.
func dirNames(dir string) []string {
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(0)
	return names
}
