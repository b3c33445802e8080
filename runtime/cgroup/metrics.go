package cgroup

import "fmt"

// Metrics is what a group uses and has used, with the names and the units that `runc events` has and container engines read: bytes,
// nanoseconds of processor time. What the host does not count is left out or 0.
type Metrics struct {
	CPU     CPUMetrics             `json:"cpu"`
	CPUSet  CPUSetMetrics          `json:"cpuset"`
	Memory  MemoryMetrics          `json:"memory"`
	Pids    PidsMetrics            `json:"pids"`
	BlockIO BlockIOMetrics         `json:"blkio"`
	Hugetlb map[string]HugeMetrics `json:"hugetlb"`
	// IntelRDT and Interfaces are not cgroups' business and empty: runc's output has them in this place.
	IntelRDT   struct{} `json:"intel_rdt"`
	Interfaces []string `json:"network_interfaces"`
}

// CPUMetrics is processor time.
type CPUMetrics struct {
	Usage      CPUUsage   `json:"usage,omitzero"`
	Throttling Throttling `json:"throttling,omitzero"`
	Pressure   *Pressure  `json:"psi,omitempty"`
}

// CPUUsage is processor time in nanoseconds, in all and of each processor.
type CPUUsage struct {
	Total        uint64   `json:"total,omitempty"`
	PerCPU       []uint64 `json:"percpu,omitempty"`
	PerCPUKernel []uint64 `json:"percpu_kernel,omitempty"`
	PerCPUUser   []uint64 `json:"percpu_user,omitempty"`
	Kernel       uint64   `json:"kernel"`
	User         uint64   `json:"user"`
}

// Throttling counts periods of a quota, those in which the group had to wait, and for how long, in nanoseconds.
type Throttling struct {
	Periods   uint64 `json:"periods,omitempty"`
	Throttled uint64 `json:"throttledPeriods,omitempty"`
	Time      uint64 `json:"throttledTime,omitempty"`
}

// Pressure says for how much of the time some or all processes waited (Documentation/accounting/psi.rst).
type Pressure struct {
	Some PressureShare `json:"some,omitzero"`
	Full PressureShare `json:"full,omitzero"`
}

// PressureShare is the percentage over the last seconds, and the sum in microseconds.
type PressureShare struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}

// CPUSetMetrics are the values of v1's cpuset controller (cpuset(7)).
type CPUSetMetrics struct {
	CPUs                  []uint16 `json:"cpus,omitempty"`
	CPUExclusive          uint64   `json:"cpu_exclusive"`
	Mems                  []uint16 `json:"mems,omitempty"`
	MemHardwall           uint64   `json:"mem_hardwall"`
	MemExclusive          uint64   `json:"mem_exclusive"`
	MemoryMigrate         uint64   `json:"memory_migrate"`
	MemorySpreadPage      uint64   `json:"memory_spread_page"`
	MemorySpreadSlab      uint64   `json:"memory_spread_slab"`
	MemoryPressure        uint64   `json:"memory_pressure"`
	SchedLoadBalance      uint64   `json:"sched_load_balance"`
	SchedRelaxDomainLevel int64    `json:"sched_relax_domain_level"`
}

// MemoryMetrics is memory in bytes. Swap is memory and swap together.
type MemoryMetrics struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     MemoryEntry       `json:"usage,omitzero"`
	Swap      MemoryEntry       `json:"swap,omitzero"`
	Kernel    MemoryEntry       `json:"kernel,omitzero"`
	KernelTCP MemoryEntry       `json:"kernelTCP,omitzero"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
	Pressure  *Pressure         `json:"psi,omitempty"`
}

// MemoryEntry is one kind of memory, in bytes, and how often its limit was hit.
type MemoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// PidsMetrics counts processes and threads. A limit of 0 is none.
type PidsMetrics struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

// BlockIOMetrics is block I/O by device and operation.
type BlockIOMetrics struct {
	ServiceBytes []BlockIOEntry `json:"ioServiceBytesRecursive,omitempty"`
	Serviced     []BlockIOEntry `json:"ioServicedRecursive,omitempty"`
	Queued       []BlockIOEntry `json:"ioQueueRecursive,omitempty"`
	ServiceTime  []BlockIOEntry `json:"ioServiceTimeRecursive,omitempty"`
	WaitTime     []BlockIOEntry `json:"ioWaitTimeRecursive,omitempty"`
	Merged       []BlockIOEntry `json:"ioMergedRecursive,omitempty"`
	Time         []BlockIOEntry `json:"ioTimeRecursive,omitempty"`
	Sectors      []BlockIOEntry `json:"sectorsRecursive,omitempty"`
	Pressure     *Pressure      `json:"psi,omitempty"`
}

// BlockIOEntry is one count of one device.
type BlockIOEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

// HugeMetrics is the use of pages of one size, in bytes.
type HugeMetrics struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// Metrics reads what the group and its children use, for people and engines. What a hierarchy that vanishes meanwhile would say is left
// out.
func (c *Cgroup) Metrics() (*Metrics, error) {
	m := &Metrics{Hugetlb: map[string]HugeMetrics{}}
	for _, s := range []struct {
		controller, v2  string
		legacy, unified func(*Metrics, string) error
	}{
		{"cpu", "cpu", legacyThrottling, unifiedCPUMetrics},
		{"cpuacct", "", legacyCPUUsage, nil},
		{"cpuset", "", legacyCPUSet, nil},
		{"memory", "memory", legacyMemoryMetrics, unifiedMemoryMetrics},
		{"pids", "pids", pidsMetrics, pidsMetrics},
		{"blkio", "io", legacyBlockIOMetrics, unifiedBlockIOMetrics},
		{"hugetlb", "hugetlb", legacyHugeMetrics, unifiedHugeMetrics},
	} {
		h, read := c.tree(s.controller), s.legacy
		if h == nil && s.v2 != "" && c.offers(s.v2) {
			h, read = c.tree(""), s.unified
		}
		if h == nil {
			continue
		}
		if err := read(m, c.dir(h)+"/"); err != nil && !gone(err) {
			return nil, fmt.Errorf("read metrics of cgroup %s: %w", c.path, err)
		}
	}
	return m, nil
}
