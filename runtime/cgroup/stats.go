package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/containerd/cgroups/v3/cgroup1"
	legacystats "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/containerd/cgroups/v3/cgroup2"
	"golang.org/x/sys/unix"
)

// Stats is what a group uses and has used. What the host does not count is 0.
type Stats struct {
	CPUNanos     uint64 // processor time, in nanoseconds
	Throttled    uint64 // how often a quota stopped the group
	MemoryUsage  uint64 // in bytes, page cache included
	MemoryPeak   uint64 // the most it ever was, in bytes
	MemoryCached uint64 // the part of the usage that is page cache of files, in bytes
	OOMKills     uint64 // processes that the kernel killed for want of memory
	Pids         uint64 // processes and threads now
}

// Stats reads what the group and its children use.
func (c *Cgroup) Stats() (*Stats, error) {
	var s *Stats
	var err error
	if c.unifiedOnly() {
		s, err = c.unifiedStats()
	} else {
		s, err = c.legacyStats()
	}
	if err != nil {
		return nil, fmt.Errorf("read statistics of cgroup %s: %w", c.path, err)
	}
	return s, nil
}

func (c *Cgroup) unifiedStats() (*Stats, error) {
	m, err := cgroup2.Load(c.path, cgroup2.WithMountpoint(c.tree("").mount))
	if err != nil {
		return nil, err
	}
	st, err := m.StatFiltered(cgroup2.StatPids | cgroup2.StatCPU | cgroup2.StatMemory | cgroup2.StatMemoryEvents)
	if err != nil {
		return nil, err
	}
	return &Stats{
		CPUNanos: st.CPU.GetUsageUsec() * 1000, Throttled: st.CPU.GetNrThrottled(),
		MemoryUsage: st.Memory.GetUsage(), MemoryPeak: st.Memory.GetMaxUsage(), MemoryCached: st.Memory.GetFile(),
		OOMKills: st.MemoryEvents.GetOomKill(), Pids: st.Pids.GetCurrent(),
	}, nil
}

// statter is a controller of the library that reads statistics.
type statter interface {
	Stat(path string, stats *legacystats.Metrics) error
}

func (c *Cgroup) legacyStats() (*Stats, error) {
	st := &legacystats.Metrics{CPU: &legacystats.CPUStat{Usage: &legacystats.CPUUsage{}, Throttling: &legacystats.Throttle{}}}
	for name, library := range map[string]func(root string) statter{
		"cpu":     func(root string) statter { return cgroup1.NewCpu(root) },
		"cpuacct": func(root string) statter { return cgroup1.NewCpuacct(root) },
		"pids":    func(root string) statter { return cgroup1.NewPids(root) },
		"memory": func(root string) statter {
			return cgroup1.NewMemory(root, cgroup1.IgnoreModules("memsw", "kmem", "kmem.tcp"))
		},
	} {
		if c.tree(name) == nil {
			continue
		}
		root, err := c.libraryRoot(name)
		if err != nil {
			return nil, err
		}
		if err := library(root).Stat(c.path, st); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return &Stats{
		CPUNanos: st.CPU.Usage.GetTotal(), Throttled: st.CPU.Throttling.GetThrottledPeriods(),
		MemoryUsage: st.Memory.GetUsage().GetUsage(), MemoryPeak: st.Memory.GetUsage().GetMax(),
		MemoryCached: st.Memory.GetTotalCache(), OOMKills: st.MemoryOomControl.GetOomKill(), Pids: st.Pids.GetCurrent(),
	}, nil
}

// libraryRoot returns the directory below which the library finds a controller's hierarchy under the controller's name, which
// on hosts that mount several together (cpu,cpuacct) is a link. Elsewhere the library would write limits into a directory of
// an ordinary file system and nobody would notice.
func (c *Cgroup) libraryRoot(controller string) (string, error) {
	h := c.tree(controller)
	if h == nil {
		return "", notMounted(controller)
	}
	root := filepath.Dir(h.mount)
	if filepath.Base(h.mount) == controller {
		return root, nil
	}
	var a, b unix.Stat_t
	if unix.Stat(h.mount, &a) != nil || unix.Stat(root+"/"+controller, &b) != nil || a.Dev != b.Dev {
		return "", fmt.Errorf("the %s controller is mounted on %s and not reachable as %s/%s",
			controller, h.mount, root, controller)
	}
	return root, nil
}
