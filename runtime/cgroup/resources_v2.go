package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3/cgroup2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// wantedUnified are the controllers that every group gets where the host has them, so that its use of things is counted.
var wantedUnified = []string{"cpu", "io", "memory", "pids"}

// applyUnified enables controllers for a v2 group and writes limits into it.
func (c *Cgroup) applyUnified(res *specs.LinuxResources) error {
	if err := unsupportedUnified(res); err != nil {
		return err
	}
	if err := c.enableControllers(neededUnified(res)); err != nil {
		return err
	}
	_, err := readFile(c.UnifiedDir() + "/memory.swap.max")
	for _, s := range unifiedSettings(res, err == nil) {
		if err := c.updateUnified(s); err != nil {
			return err
		}
	}
	if err := c.applyCPUExtras(res.CPU); err != nil {
		return err
	}
	if err := c.applyBlockIOWeight(res.BlockIO); err != nil {
		return err
	}
	if err := c.applyDeviceFilter(res.Devices); err != nil {
		return err
	}
	return c.applyUnifiedMap(res.Unified)
}

// unsupportedUnified refuses what v2 has no counterpart for. Nothing is left out in silence but the kernel's TCP memory, which
// v2 counts as memory.
func unsupportedUnified(res *specs.LinuxResources) error {
	m, u, n := res.Memory, res.CPU, res.Network
	for _, u := range []struct {
		what, field string
		asked       bool
	}{
		{"swappiness", "memory.swappiness", m != nil && m.Swappiness != nil},
		{"oom killer off", "memory.disableOOMKiller", m != nil && m.DisableOOMKiller != nil && *m.DisableOOMKiller},
		{"real-time quota", "cpu.realtimeRuntime", u != nil && u.RealtimeRuntime != nil && *u.RealtimeRuntime != 0},
		{"network class", "network.classID", n != nil && n.ClassID != nil && *n.ClassID != 0},
		{"network priorities", "network.priorities", n != nil && len(n.Priorities) > 0},
	} {
		if u.asked {
			return fieldError(u.what, u.field, fmt.Errorf("cgroup v2 has none: %w", errors.ErrUnsupported))
		}
	}
	return nil
}

// unifiedSetting is one section of limits in the library's words, and where it comes from.
type unifiedSetting struct {
	what, field string
	res         cgroup2.Resources
}

// unifiedSettings translates limits. The library's own translation is corrected where it writes what the kernel refuses: a
// quota without a period, "-1" for none.
func unifiedSettings(res *specs.LinuxResources, hasSwapLimit bool) []unifiedSetting {
	conv := cgroup2.ToResources(res)
	var out []unifiedSetting
	if m := conv.Memory; m != nil {
		if swap := value(res.Memory.Swap); swap > 0 {
			only := max(swap-value(res.Memory.Limit), 0)
			m.Swap = &only
		}
		if m.Swap != nil && *m.Swap == 0 && !hasSwapLimit {
			m.Swap = nil // a kernel that cannot swap does not
		}
		out = append(out, unifiedSetting{"memory", "memory", cgroup2.Resources{Memory: m}})
	}
	if u := conv.CPU; u != nil {
		u.Max = ""
		if res.CPU.Quota != nil || res.CPU.Period != nil {
			u.Max = cgroup2.NewCPUMax(res.CPU.Quota, res.CPU.Period)
		}
		out = append(out, unifiedSetting{"cpu", "cpu", cgroup2.Resources{CPU: u}})
	}
	if conv.Pids != nil {
		out = append(out, unifiedSetting{"pids", "pids.limit", cgroup2.Resources{Pids: conv.Pids}})
	}
	if io := conv.IO; io != nil {
		io.BFQ.Weight = 0 // see applyBlockIOWeight
		out = append(out, unifiedSetting{"io", "blockIO", cgroup2.Resources{IO: io}})
	}
	if conv.HugeTlb != nil && len(*conv.HugeTlb) > 0 {
		out = append(out, unifiedSetting{"hugetlb", "hugepageLimits", cgroup2.Resources{HugeTlb: conv.HugeTlb}})
	}
	if conv.RDMA != nil && len(conv.RDMA.Limit) > 0 {
		out = append(out, unifiedSetting{"rdma", "rdma", cgroup2.Resources{RDMA: conv.RDMA}})
	}
	return out
}

// updateUnified writes one section.
func (c *Cgroup) updateUnified(s unifiedSetting) error {
	m, err := cgroup2.Load(c.path, cgroup2.WithMountpoint(c.tree("").mount))
	if err == nil {
		err = m.Update(&s.res)
	}
	return fieldError(s.what, s.field, err)
}

// applyCPUExtras writes what the library does not know of the cpu section.
func (c *Cgroup) applyCPUExtras(u *specs.LinuxCPU) error {
	if u == nil {
		return nil
	}
	for _, v := range []struct{ file, field, value string }{
		{"cpu.max.burst", "cpu.burst", decimal(u.Burst)},
		{"cpu.idle", "cpu.idle", decimal(u.Idle)},
	} {
		if v.value == "" {
			continue
		}
		if err := writeFile(c.UnifiedDir()+"/"+v.file, v.value); err != nil {
			return fieldError(v.file, v.field, err)
		}
	}
	return nil
}

// neededUnified returns the v2 controllers that limits need, sorted.
func neededUnified(res *specs.LinuxResources) []string {
	var out []string
	for _, n := range []struct {
		name   string
		needed bool
	}{
		{"cpu", wantsCPU(res.CPU)},
		{"cpuset", res.CPU != nil && (res.CPU.Cpus != "" || res.CPU.Mems != "")},
		{"hugetlb", len(res.HugepageLimits) > 0},
		{"io", wantsBlockIO(res.BlockIO)},
		{"memory", res.Memory != nil && (res.Memory.Limit != nil || res.Memory.Swap != nil || res.Memory.Reservation != nil)},
		{"pids", res.Pids != nil && res.Pids.Limit != nil},
		{"rdma", len(res.Rdma) > 0},
	} {
		if n.needed {
			out = append(out, n.name)
		}
	}
	for key := range res.Unified {
		if name, _, ok := strings.Cut(key, "."); ok && name != "cgroup" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// enableControllers hands controllers down from the root of the v2 tree to the group. Those in needed must come, those in
// wantedUnified may be missing.
func (c *Cgroup) enableControllers(needed []string) error {
	mount, dir := c.tree("").mount, c.UnifiedDir()
	for i := len(mount); i < len(dir); i++ {
		if dir[i] != '/' {
			continue
		}
		if err := enableIn(dir[:i], needed); err != nil {
			return err
		}
	}
	return nil
}

// enableIn makes a group hand controllers down to its children.
func enableIn(dir string, needed []string) error {
	offered, err := readFile(dir + "/cgroup.controllers")
	if err != nil {
		return err
	}
	enabled, err := readFile(dir + "/cgroup.subtree_control")
	if err != nil {
		return err
	}
	have, can := strings.Fields(enabled), strings.Fields(offered)
	for _, name := range slices.Compact(slices.Sorted(slices.Values(append(slices.Clip(needed), wantedUnified...)))) {
		must := slices.Contains(needed, name)
		switch {
		case slices.Contains(have, name):
		case slices.Contains(can, name):
			err := writeFile(dir+"/cgroup.subtree_control", "+"+name)
			if err != nil && must {
				if errors.Is(err, unix.EBUSY) {
					return fmt.Errorf("enable controller %s: %w (%s has processes of its own: choose another linux.cgroupsPath)",
						name, err, dir)
				}
				return fmt.Errorf("enable controller %s: %w", name, err)
			}
		case must:
			return fmt.Errorf("enable controller %s: %s does not offer it: %w (config.json: linux.resources)",
				name, dir, errors.ErrUnsupported)
		}
	}
	return nil
}

// applyBlockIOWeight writes weights: to bfq's file where the kernel has it, with the same range, or else to the file of the
// cost model, whose range is ten times that.
func (c *Cgroup) applyBlockIOWeight(b *specs.LinuxBlockIO) error {
	if b == nil {
		return nil
	}
	dir := c.UnifiedDir()
	file, scale := "io.bfq.weight", func(w uint16) uint64 { return uint64(w) }
	if _, err := readFile(filepath.Join(dir, file)); errors.Is(err, fs.ErrNotExist) {
		file, scale = "io.weight", func(w uint16) uint64 { return 1 + (uint64(w)-10)*9999/990 }
	}
	if b.Weight != nil {
		if err := writeFile(dir+"/"+file, "default "+strconv.FormatUint(scale(*b.Weight), 10)); err != nil {
			return fieldError("io weight", "blockIO.weight", err)
		}
	}
	for i, d := range b.WeightDevice {
		if d.Weight == nil || *d.Weight == 0 {
			continue
		}
		if err := writeFile(dir+"/"+file, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, scale(*d.Weight))); err != nil {
			return fieldError("io weight", fmt.Sprintf("blockIO.weightDevice[%d]", i), err)
		}
	}
	return nil
}

// applyUnifiedMap writes linux.resources.unified, a line at a time.
func (c *Cgroup) applyUnifiedMap(values map[string]string) error {
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		if strings.Contains(key, "/") || !strings.Contains(key, ".") {
			return fieldError(key, "unified", errors.New("not the name of a file of cgroup v2"))
		}
		for line := range strings.SplitSeq(strings.TrimRight(values[key], "\n"), "\n") {
			if err := writeFile(c.UnifiedDir()+"/"+key, line); err != nil {
				return fieldError(key, "unified", err)
			}
		}
	}
	return nil
}

// value returns what a pointer points to, or 0.
func value(v *int64) int64 {
	if v == nil {
		return 0
	}
	return *v
}
