package runtime

import (
	"context"
	"fmt"
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/runtime/cgroup"
)

// Limits is a change of a container's limits: what is not there stays as it is.
type Limits struct {
	// Resources are new limits. Devices in it are ignored, as no engine expects them to change.
	Resources *specs.LinuxResources
	// L3CacheSchema and MemBwSchema are new schemas of Intel RDT, for a container that has one (linux.intelRdt).
	L3CacheSchema, MemBwSchema string
	// Document is what errors call the place that the limits are from.
	Document string
}

// Limit changes the limits of a container that has not stopped, and writes down what they are now: they travel with it. When one can't be
// set those that were set before it are taken back.
func (c *Container) Limit(ctx context.Context, l Limits) error {
	if err := c.locked(ctx, func() error { return c.limit(ctx, l) }); err != nil {
		return fmt.Errorf("update container %s: %w", c.ID(), err)
	}
	return nil
}

func (c *Container) limit(ctx context.Context, l Limits) error {
	if c.Status() == specs.StateStopped {
		return ErrNotRunning
	}
	linux := c.state.Bundle.Spec.Linux
	if linux == nil {
		linux = &specs.Linux{}
	}
	schemas, err := planSchemas(linux.IntelRdt, c.ID(), l)
	if err != nil {
		return err
	}
	cg, err := c.Cgroup()
	if err != nil {
		return err
	}
	change := l.Resources
	if change == nil {
		change = &specs.LinuxResources{}
	}
	for _, field := range cgroup.Ignored(change) {
		c.runtime.log.Warn("ignore limit of kernel memory: kernels have none", "field", field)
	}
	after := mergeLimits(linux.Resources, change)
	complete := completeLimits(change, after)
	if c.state.SystemdUnit != "" {
		if complete, err = (cgroup.Unit{Name: c.state.SystemdUnit}).Set(ctx, complete); err != nil {
			return err
		}
	}
	err = cg.SetFrom(complete, l.Document)
	if err == nil {
		err = schemas.write()
	}
	if err != nil {
		if back := cg.Set(completeLimits(formerLimits(linux.Resources, change), linux.Resources)); back != nil {
			c.runtime.log.Warn("take limits back", "container", c.ID(), "error", back.Error())
		}
		return err
	}
	return c.save(func(s *State) {
		if s.Bundle.Spec.Linux == nil {
			s.Bundle.Spec.Linux = &specs.Linux{}
		}
		s.Bundle.Spec.Linux.Resources = after
		if schemas != nil {
			s.Bundle.Spec.Linux.IntelRdt = schemas.config
		}
	})
}

// mergeLimits returns the limits old with those of change in their place. It changes neither.
func mergeLimits(old, change *specs.LinuxResources) *specs.LinuxResources {
	out := new(specs.LinuxResources)
	if old != nil {
		*out = *old
	}
	out.Memory, out.CPU = mergeMemory(out.Memory, change.Memory), mergeCPU(out.CPU, change.CPU)
	if change.Pids != nil && change.Pids.Limit != nil {
		out.Pids = change.Pids
	}
	out.BlockIO = mergeBlockIO(out.BlockIO, change.BlockIO)
	if len(change.HugepageLimits) > 0 {
		out.HugepageLimits = upsert(out.HugepageLimits, change.HugepageLimits, func(a, b specs.LinuxHugepageLimit) bool {
			return a.Pagesize == b.Pagesize
		})
	}
	if n := change.Network; n != nil {
		merged := specs.LinuxNetwork{}
		if out.Network != nil {
			merged = *out.Network
		}
		put(&merged.ClassID, n.ClassID)
		merged.Priorities = upsert(merged.Priorities, n.Priorities, func(a, b specs.LinuxInterfacePriority) bool { return a.Name == b.Name })
		out.Network = &merged
	}
	out.Rdma, out.Unified = mergeMap(out.Rdma, change.Rdma), mergeMap(out.Unified, change.Unified)
	return out
}

// mergeMemory is mergeLimits for memory. Without a limit of memory there is none of memory and swap either, unless it is given.
func mergeMemory(old, change *specs.LinuxMemory) *specs.LinuxMemory {
	if change == nil {
		return old
	}
	out := new(specs.LinuxMemory)
	if old != nil {
		*out = *old
	}
	if change.Limit != nil && *change.Limit == -1 {
		out.Swap = nil
	}
	put(&out.Limit, change.Limit)
	put(&out.Reservation, change.Reservation)
	put(&out.Swap, change.Swap)
	put(&out.Swappiness, change.Swappiness)
	put(&out.DisableOOMKiller, change.DisableOOMKiller)
	put(&out.UseHierarchy, change.UseHierarchy)
	put(&out.CheckBeforeUpdate, change.CheckBeforeUpdate)
	return out
}

func mergeCPU(old, change *specs.LinuxCPU) *specs.LinuxCPU {
	if change == nil {
		return old
	}
	out := new(specs.LinuxCPU)
	if old != nil {
		*out = *old
	}
	put(&out.Shares, change.Shares)
	put(&out.Quota, change.Quota)
	put(&out.Burst, change.Burst)
	put(&out.Period, change.Period)
	put(&out.RealtimeRuntime, change.RealtimeRuntime)
	put(&out.RealtimePeriod, change.RealtimePeriod)
	put(&out.Idle, change.Idle)
	if change.Cpus != "" {
		out.Cpus = change.Cpus
	}
	if change.Mems != "" {
		out.Mems = change.Mems
	}
	return out
}

func mergeBlockIO(old, change *specs.LinuxBlockIO) *specs.LinuxBlockIO {
	if change == nil {
		return old
	}
	out := new(specs.LinuxBlockIO)
	if old != nil {
		*out = *old
	}
	put(&out.Weight, change.Weight)
	put(&out.LeafWeight, change.LeafWeight)
	out.WeightDevice = upsert(out.WeightDevice, change.WeightDevice, func(a, b specs.LinuxWeightDevice) bool {
		return a.LinuxBlockIODevice == b.LinuxBlockIODevice
	})
	for _, l := range []struct{ list, change *[]specs.LinuxThrottleDevice }{
		{&out.ThrottleReadBpsDevice, &change.ThrottleReadBpsDevice},
		{&out.ThrottleWriteBpsDevice, &change.ThrottleWriteBpsDevice},
		{&out.ThrottleReadIOPSDevice, &change.ThrottleReadIOPSDevice},
		{&out.ThrottleWriteIOPSDevice, &change.ThrottleWriteIOPSDevice},
	} {
		*l.list = upsert(*l.list, *l.change, func(a, b specs.LinuxThrottleDevice) bool { return a.LinuxBlockIODevice == b.LinuxBlockIODevice })
	}
	return out
}

// put sets what is given.
func put[T any](to **T, v *T) {
	if v != nil {
		*to = v
	}
}

// upsert returns a list in which each of changes takes the place of those that are about the same thing, or comes last.
func upsert[T any](list, changes []T, same func(a, b T) bool) []T {
	out := slices.Clone(list)
	for _, change := range changes {
		out = slices.DeleteFunc(out, func(v T) bool { return same(v, change) })
		out = append(out, change)
	}
	return out
}

func mergeMap[T any](old, change map[string]T) map[string]T {
	if len(change) == 0 {
		return old
	}
	out := maps.Clone(old)
	if out == nil {
		out = map[string]T{}
	}
	maps.Copy(out, change)
	return out
}
