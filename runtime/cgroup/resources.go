package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Set applies res to a group that has processes, as Create does to a new one: what res does not mention stays as it is. A
// memory limit below what the group uses and can't give up is refused (v1) or kills processes (v2): see MemoryUsage.
func (c *Cgroup) Set(res *specs.LinuxResources) error {
	if err := c.apply(res); err != nil {
		return fmt.Errorf("set limits of cgroup %s: %w", c.path, err)
	}
	return nil
}

// apply writes limits into the group: into the v1 hierarchies, or into v2 where that is all the host has.
func (c *Cgroup) apply(res *specs.LinuxResources) error {
	if res == nil {
		res = &specs.LinuxResources{}
	}
	res = normalize(res)
	if c.unifiedOnly() {
		return c.applyUnified(res)
	}
	return c.applyLegacy(res)
}

// unifiedOnly says whether v2 is the only hierarchy of the group.
func (c *Cgroup) unifiedOnly() bool {
	return len(c.trees) == 1 && c.trees[0].unified
}

// normalize returns a copy of res in which what means "no limit of its own" in a specification is not there at all, as a new
// group has none: zeros, and -1 where the kernel wants another word for it. Kernel memory limits are left out, as current
// kernels have none.
func normalize(res *specs.LinuxResources) *specs.LinuxResources {
	out := *res
	if m := res.Memory; m != nil {
		out.Memory = &specs.LinuxMemory{
			Limit: positive(m.Limit), Reservation: positive(m.Reservation), Swap: positive(m.Swap),
			KernelTCP: positive(m.KernelTCP), Swappiness: m.Swappiness, DisableOOMKiller: m.DisableOOMKiller,
		}
	}
	if res.CPU != nil {
		u := *res.CPU
		u.Quota = positive(u.Quota)
		u.Shares, u.Period, u.RealtimePeriod = nonzero(u.Shares), nonzero(u.Period), nonzero(u.RealtimePeriod)
		u.Burst = nonzero(u.Burst)
		out.CPU = &u
	}
	if res.Pids != nil {
		out.Pids = &specs.LinuxPids{Limit: positive(res.Pids.Limit)}
	}
	if res.BlockIO != nil {
		b := *res.BlockIO
		b.Weight, b.LeafWeight = nonzero(b.Weight), nonzero(b.LeafWeight)
		out.BlockIO = &b
	}
	return &out
}

// positive returns v, or nil for what is not above zero.
func positive(v *int64) *int64 {
	if v == nil || *v <= 0 {
		return nil
	}
	return v
}

// nonzero returns v, or nil for a zero.
func nonzero[T uint16 | uint64](v *T) *T {
	if v == nil || *v == 0 {
		return nil
	}
	return v
}

// fieldError adds to an error the place in config.json that asked for what went wrong. The "permission denied" that cgroup
// file systems answer for a file they don't have is replaced by what it means.
func fieldError(what, field string, err error) error {
	if err == nil {
		return nil
	}
	var pe *fs.PathError
	if errors.As(err, &pe) && (errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist)) {
		if _, serr := readFile(pe.Path); errors.Is(serr, fs.ErrNotExist) {
			err = fmt.Errorf("this kernel has no %s: %w", filepath.Base(pe.Path), errors.ErrUnsupported)
		}
	}
	return fmt.Errorf("set %s: %w (config.json: linux.resources.%s)", what, err, field)
}
