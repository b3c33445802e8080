package cgroup

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// TestUnifiedMetrics reads files as cgroup v2 has them.
func TestUnifiedMetrics(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "c")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"cpu.stat":             "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 4\nnr_throttled 1\nthrottled_usec 7\n",
		"cpu.pressure":         "some avg10=1.50 avg60=0.25 avg300=0.00 total=99\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
		"memory.stat":          "anon 10\nfile 20\n",
		"memory.current":       "100\n",
		"memory.max":           "max\n",
		"memory.peak":          "150\n",
		"memory.swap.current":  "5\n",
		"memory.swap.max":      "50\n",
		"pids.current":         "3\n",
		"pids.max":             "max\n",
		"io.stat":              "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n",
		"hugetlb.2MB.current":  "6\n",
		"hugetlb.2MB.events":   "max 8\n",
		"hugetlb.2MB.rsvd.max": "max\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := &Cgroup{path: "/c", trees: []*hierarchy{{mount: root, names: []string{""}, unified: true}}}
	m, err := c.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"cpu":{"usage":{"total":5000,"kernel":2000,"user":3000},"throttling":{"periods":4,"throttledPeriods":1,"throttledTime":7000},` +
		`"psi":{"some":{"avg10":1.5,"avg60":0.25,"avg300":0,"total":99},"full":{"avg10":0,"avg60":0,"avg300":0,"total":1}}},` +
		`"cpuset":{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,"memory_spread_slab":0,` +
		`"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0},` +
		`"memory":{"cache":20,"usage":{"limit":18446744073709551615,"usage":100,"max":150,"failcnt":0},` +
		`"swap":{"limit":18446744073709551615,"usage":105,"failcnt":0},"raw":{"anon":10,"file":20}},` +
		`"pids":{"current":3},"blkio":{"ioServiceBytesRecursive":[{"major":8,"minor":16,"op":"Read","value":1},` +
		`{"major":8,"minor":16,"op":"Write","value":2}],"ioServicedRecursive":[{"major":8,"minor":16,"op":"Read","value":3},` +
		`{"major":8,"minor":16,"op":"Write","value":4}]},"hugetlb":{"2MB":{"usage":6,"failcnt":8}},"intel_rdt":{},"network_interfaces":null}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestLegacyMetrics reads what a real group of v1 has.
func TestLegacyMetrics(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		offers(t, trees, "cpuacct", "cpuset", "memory", "pids")
		c := group(t, trees, nil)
		p := start(t, c, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; read x")
		p.line(t)
		m, err := c.Metrics()
		if err != nil {
			t.Fatal(err)
		}
		u := m.CPU.Usage
		if u.Total == 0 || len(u.PerCPU) == 0 || len(u.PerCPU) != len(u.PerCPUUser) || m.Memory.Usage.Usage == 0 || m.Pids.Current != 1 ||
			len(m.CPUSet.CPUs) == 0 || len(m.CPUSet.Mems) == 0 || m.CPUSet.SchedLoadBalance != 1 {
			t.Errorf("%+v", m)
		}
	})
}
