package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/containerd/cgroups/v3/cgroup1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// creator is a controller of the library; its Create writes limits into a group that is there.
type creator interface {
	Create(path string, res *specs.LinuxResources) error
}

// legacyController is what a specification may want of one v1 controller.
type legacyController struct {
	name    string
	field   string // below linux.resources in config.json
	wanted  func(*specs.LinuxResources) bool
	library func(root string) (creator, error)
}

var legacyControllers = []legacyController{
	{
		"memory", "memory", func(r *specs.LinuxResources) bool { return r.Memory != nil && *r.Memory != specs.LinuxMemory{} },
		func(root string) (creator, error) { return cgroup1.NewMemory(root), nil },
	},
	{
		"cpu", "cpu", func(r *specs.LinuxResources) bool { return wantsCPU(r.CPU) },
		func(root string) (creator, error) { return cgroup1.NewCpu(root), nil },
	},
	{
		"pids", "pids", func(r *specs.LinuxResources) bool { return r.Pids != nil && r.Pids.Limit != nil },
		func(root string) (creator, error) { return cgroup1.NewPids(root), nil },
	},
	{
		"blkio", "blockIO", func(r *specs.LinuxResources) bool { return wantsBlockIO(r.BlockIO) },
		func(root string) (creator, error) { return cgroup1.NewBlkio(root), nil },
	},
	{
		"hugetlb", "hugepageLimits", func(r *specs.LinuxResources) bool { return len(r.HugepageLimits) > 0 },
		func(root string) (creator, error) { return cgroup1.NewHugetlb(root) },
	},
	{"net_cls", "network.classID", func(r *specs.LinuxResources) bool {
		return r.Network != nil && r.Network.ClassID != nil && *r.Network.ClassID != 0
	}, func(root string) (creator, error) { return cgroup1.NewNetCls(root), nil }},
	{"net_prio", "network.priorities", func(r *specs.LinuxResources) bool {
		return r.Network != nil && len(r.Network.Priorities) > 0
	}, func(root string) (creator, error) { return cgroup1.NewNetPrio(root), nil }},
	{
		"rdma", "rdma", func(r *specs.LinuxResources) bool { return len(r.Rdma) > 0 },
		func(root string) (creator, error) { return cgroup1.NewRdma(root), nil },
	},
}

// wantsCPU says whether anything is asked of the cpu controller; cpus and mems are cpuset's.
func wantsCPU(u *specs.LinuxCPU) bool {
	return u != nil && (u.Shares != nil || u.Quota != nil || u.Period != nil || u.RealtimeRuntime != nil ||
		u.RealtimePeriod != nil || u.Burst != nil || u.Idle != nil)
}

func wantsBlockIO(b *specs.LinuxBlockIO) bool {
	return b != nil && (b.Weight != nil || b.LeafWeight != nil || len(b.WeightDevice)+len(b.ThrottleReadBpsDevice)+
		len(b.ThrottleWriteBpsDevice)+len(b.ThrottleReadIOPSDevice)+len(b.ThrottleWriteIOPSDevice) > 0)
}

// applyLegacy writes limits into the v1 hierarchies, touching only controllers that the specification says something about.
func (c *Cgroup) applyLegacy(res *specs.LinuxResources) error {
	if len(res.Unified) > 0 {
		err := fmt.Errorf("this host's controllers are on cgroup v1: %w", errors.ErrUnsupported)
		return fieldError("v2 values", "unified", err)
	}
	for _, lc := range legacyControllers {
		if !lc.wanted(res) {
			continue
		}
		root, err := c.libraryRoot(lc.name)
		if err != nil {
			return fieldError(lc.name, lc.field, err)
		}
		lib, err := lc.library(root)
		if err != nil {
			return fieldError(lc.name, lc.field, err)
		}
		if err := lib.Create(c.path, res); err != nil {
			return fieldError(lc.name, lc.field, err)
		}
	}
	if err := c.applyCPU(res.CPU); err != nil {
		return err
	}
	return c.applyDevices(res.Devices)
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

// notMounted says that a controller is missing.
func notMounted(controller string) error {
	return fmt.Errorf("the %s controller is not mounted: %w", controller, errors.ErrUnsupported)
}

// applyCPU writes what the library leaves out: burst and idle, and the CPUs and memory nodes.
func (c *Cgroup) applyCPU(u *specs.LinuxCPU) error {
	if u == nil {
		return nil
	}
	for _, v := range []struct{ controller, file, field, value string }{
		{"cpu", "cpu.cfs_burst_us", "cpu.burst", decimal(u.Burst)},
		{"cpu", "cpu.idle", "cpu.idle", decimal(u.Idle)},
		{"cpuset", "cpuset.cpus", "cpu.cpus", u.Cpus},
		{"cpuset", "cpuset.mems", "cpu.mems", u.Mems},
	} {
		if v.value == "" {
			continue
		}
		h := c.tree(v.controller)
		if h == nil {
			return fieldError(v.file, v.field, notMounted(v.controller))
		}
		if err := writeFile(c.dir(h)+"/"+v.file, v.value); err != nil {
			return fieldError(v.file, v.field, err)
		}
	}
	return nil
}

// decimal formats a number that may be missing.
func decimal[T int64 | uint64](v *T) string {
	switch {
	case v == nil:
		return ""
	case *v < 0:
		return strconv.FormatInt(int64(*v), 10)
	}
	return strconv.FormatUint(uint64(*v), 10)
}

// applyDevices writes the device rules in their order, each file opened once, and lets the devices through that every
// container has.
func (c *Cgroup) applyDevices(rules []specs.LinuxDeviceCgroup) error {
	if len(rules) == 0 {
		return nil
	}
	h := c.tree("devices")
	if h == nil {
		return fieldError("devices", "devices", notMounted("devices"))
	}
	deny, err := open(c.dir(h)+"/devices.deny", unix.O_WRONLY)
	if err != nil {
		return fieldError("devices", "devices", err)
	}
	defer unix.Close(deny)
	allow, err := open(c.dir(h)+"/devices.allow", unix.O_WRONLY)
	if err != nil {
		return fieldError("devices", "devices", err)
	}
	defer unix.Close(allow)
	given := len(rules)
	for i, r := range withDefaults(rules) {
		fd, word := deny, "deny"
		if r.Allow {
			fd, word = allow, "allow"
		}
		if _, err := unix.Write(fd, []byte(deviceRule(r))); err != nil {
			field := "devices"
			if i < given {
				field = fmt.Sprintf("devices[%d]", i)
			}
			return fieldError("devices", field, fmt.Errorf("%s %q: %w", word, deviceRule(r), err))
		}
	}
	return nil
}
