package cgroup

import (
	"math"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// legacyCPU is the cpu controller of v1. An idle group has no shares of its own.
func legacyCPU(res *specs.LinuxResources) ([]knot, error) {
	u := res.CPU
	if u == nil {
		return nil, nil
	}
	knots := add(nil, write{file: "cpu.idle", value: given(u.Idle), field: "cpu.idle"})
	if value(u.Idle) != 1 {
		knots = add(knots, write{file: "cpu.shares", value: decimal(u.Shares), field: "cpu.shares", exact: true})
	}
	knots = tie(knots,
		write{file: "cpu.cfs_period_us", value: decimal(u.Period), field: "cpu.period"},
		write{file: "cpu.cfs_burst_us", value: given(u.Burst), field: "cpu.burst", optional: value(u.Burst) == 0},
		write{file: "cpu.cfs_quota_us", value: decimal(u.Quota), field: "cpu.quota"})
	return tie(knots,
		write{file: "cpu.rt_period_us", value: decimal(u.RealtimePeriod), field: "cpu.realtimePeriod"},
		write{file: "cpu.rt_runtime_us", value: decimal(u.RealtimeRuntime), field: "cpu.realtimeRuntime"}), nil
}

// defaultPeriod is the kernel's period of a quota, in microseconds (Documentation/admin-guide/cgroup-v2.rst, cpu.max).
const defaultPeriod = 100000

// unifiedCPU is the cpu controller of v2.
func unifiedCPU(res *specs.LinuxResources) ([]knot, error) {
	u := res.CPU
	if u == nil {
		return nil, nil
	}
	if value(u.RealtimeRuntime) != 0 || value(u.RealtimePeriod) != 0 {
		return nil, lacking("real-time quota", "cpu.realtimeRuntime")
	}
	knots := add(nil, write{file: "cpu.idle", value: given(u.Idle), field: "cpu.idle"})
	if shares := value(u.Shares); shares != 0 && value(u.Idle) != 1 {
		knots = add(knots, write{file: "cpu.weight", value: strconv.FormatUint(weight(shares), 10), field: "cpu.shares"})
	}
	maximum := ""
	if quota, period := value(u.Quota), value(u.Period); quota != 0 || period != 0 {
		if maximum = "max"; quota > 0 {
			maximum = strconv.FormatInt(quota, 10)
		}
		if period == 0 {
			period = defaultPeriod
		}
		maximum += " " + strconv.FormatUint(period, 10)
	}
	return tie(knots,
		write{file: "cpu.max.burst", value: given(u.Burst), field: "cpu.burst", optional: value(u.Burst) == 0},
		write{file: "cpu.max", value: maximum, field: "cpu.quota", optional: value(u.Quota) <= 0}), nil
}

// weight converts v1's shares, 2 to 262144 and 1024 unless set, to v2's weight, 1 to 10000 and 100 unless set: the exponent of ten is
// the quadratic function of the binary logarithm that takes each of these to the other, as all OCI runtimes have it since 2025.
func weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

// cpusets is the cpuset controller, whose files have the same names in v1 and v2.
func cpusets(res *specs.LinuxResources) ([]knot, error) {
	if res.CPU == nil {
		return nil, nil
	}
	knots := add(nil, write{file: "cpuset.cpus", value: res.CPU.Cpus, field: "cpu.cpus"})
	return add(knots, write{file: "cpuset.mems", value: res.CPU.Mems, field: "cpu.mems"}), nil
}
