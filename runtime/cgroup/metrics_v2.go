package cgroup

import (
	"math"
	"strings"
)

func unifiedCPUMetrics(m *Metrics, dir string) error {
	f := &files{dir: dir}
	stat := f.keyed("cpu.stat")
	m.CPU = CPUMetrics{
		Usage: CPUUsage{Total: stat["usage_usec"] * 1000, User: stat["user_usec"] * 1000, Kernel: stat["system_usec"] * 1000},
		Throttling: Throttling{
			Periods: stat["nr_periods"], Throttled: stat["nr_throttled"], Time: stat["throttled_usec"] * 1000,
		},
		Pressure: f.pressure("cpu.pressure"),
	}
	return f.err
}

// unifiedMemoryMetrics adds memory to what v2 counts as swap, as v1 does.
func unifiedMemoryMetrics(m *Metrics, dir string) error {
	f := &files{dir: dir}
	entry := func(kind string) MemoryEntry {
		return MemoryEntry{Limit: f.number(kind + ".max"), Usage: f.number(kind + ".current"), Max: f.number(kind + ".peak")}
	}
	raw := f.keyed("memory.stat")
	usage, swap := entry("memory"), entry("memory.swap")
	swap.Usage += usage.Usage
	if swap.Limit+usage.Limit < usage.Limit || usage.Limit == math.MaxUint64 {
		swap.Limit = math.MaxUint64
	} else {
		swap.Limit += usage.Limit
	}
	swap.Max = 0 // the two need not have been highest at once
	m.Memory = MemoryMetrics{Cache: raw["file"], Usage: usage, Swap: swap, Raw: raw, Pressure: f.pressure("memory.pressure")}
	return f.err
}

// unifiedBlockIOMetrics puts the counts of io.stat, "8:0 rbytes=1 wbytes=2 rios=3 wios=4", into v1's tables.
func unifiedBlockIOMetrics(m *Metrics, dir string) error {
	f := &files{dir: dir}
	b := &m.BlockIO
	b.Pressure = f.pressure("io.pressure")
	for line := range strings.SplitSeq(f.text("io.stat"), "\n") {
		device, counts, _ := strings.Cut(line, " ")
		major, minor, ok := strings.Cut(device, ":")
		if !ok {
			continue
		}
		for _, count := range strings.Fields(counts) {
			key, value, _ := strings.Cut(count, "=")
			to, op := &b.ServiceBytes, "Read"
			switch key {
			case "rbytes":
			case "wbytes":
				op = "Write"
			case "rios":
				to = &b.Serviced
			case "wios":
				to, op = &b.Serviced, "Write"
			default:
				continue
			}
			*to = append(*to, BlockIOEntry{Major: number(major), Minor: number(minor), Op: op, Value: number(value)})
		}
	}
	return f.err
}

func unifiedHugeMetrics(m *Metrics, dir string) error {
	f := &files{dir: dir}
	for _, size := range pageSizes(dir, ".current") {
		at := "hugetlb." + size
		usage := at + ".current"
		if exists(dir + at + ".rsvd.current") {
			usage = at + ".rsvd.current"
		}
		m.Hugetlb[size] = HugeMetrics{Usage: f.number(usage), Failcnt: f.keyed(at + ".events")["max"]}
	}
	return f.err
}
