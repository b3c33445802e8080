package runtime

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// completeLimits returns what has to be written for a change, when all limits are then all: of pairs that the kernel takes together both,
// memory and swap, quota and period; and no devices.
func completeLimits(change, all *specs.LinuxResources) *specs.LinuxResources {
	out := *change
	out.Devices = nil
	if all == nil {
		return &out
	}
	if m := change.Memory; m != nil && all.Memory != nil && (m.Limit != nil || m.Swap != nil) {
		both := *m
		both.Limit, both.Swap = all.Memory.Limit, all.Memory.Swap
		out.Memory = &both
	}
	if u := change.CPU; u != nil && all.CPU != nil {
		both := *u
		if u.Quota != nil || u.Period != nil {
			both.Quota, both.Period = all.CPU.Quota, all.CPU.Period
		}
		if u.Idle != nil && *u.Idle == 0 {
			both.Shares = all.CPU.Shares // the kernel has forgotten them
		}
		out.CPU = &both
	}
	return &out
}

// formerLimits are the limits of old that change is about. What had no limit before it is left out.
func formerLimits(old, change *specs.LinuxResources) *specs.LinuxResources {
	out := new(specs.LinuxResources)
	if old == nil {
		return out
	}
	if change.Pids != nil {
		out.Pids = old.Pids
	}
	if o, m := old.Memory, change.Memory; o != nil && m != nil {
		out.Memory = &specs.LinuxMemory{
			Limit: former(o.Limit, m.Limit), Reservation: former(o.Reservation, m.Reservation), Swap: former(o.Swap, m.Swap),
			Swappiness: former(o.Swappiness, m.Swappiness),
		}
	}
	if o, u := old.CPU, change.CPU; o != nil && u != nil {
		out.CPU = &specs.LinuxCPU{
			Shares: former(o.Shares, u.Shares), Quota: former(o.Quota, u.Quota), Burst: former(o.Burst, u.Burst),
			Period: former(o.Period, u.Period), RealtimeRuntime: former(o.RealtimeRuntime, u.RealtimeRuntime),
			RealtimePeriod: former(o.RealtimePeriod, u.RealtimePeriod), Idle: former(o.Idle, u.Idle),
		}
		if u.Cpus != "" {
			out.CPU.Cpus = o.Cpus
		}
		if u.Mems != "" {
			out.CPU.Mems = o.Mems
		}
	}
	if change.BlockIO != nil {
		out.BlockIO = old.BlockIO
	}
	if len(change.HugepageLimits) > 0 {
		out.HugepageLimits = old.HugepageLimits
	}
	return out
}

// former is an old value where there is a new one.
func former[T any](old, change *T) *T {
	if change == nil {
		return nil
	}
	return old
}
