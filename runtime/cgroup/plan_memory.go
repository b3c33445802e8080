package cgroup

import (
	"errors"
	"fmt"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// legacyMemory is the memory controller of v1. Without a limit there is none of memory and swap together either, unless it is given.
// Limits of the kernel's own memory are no more: see Ignored.
func legacyMemory(res *specs.LinuxResources) ([]knot, error) {
	m := res.Memory
	if m == nil {
		return nil, nil
	}
	swap := write{file: "memory.memsw.limit_in_bytes", value: decimal(m.Swap), field: "memory.swap"}
	if swap.optional = value(m.Swap) <= 0; value(m.Limit) == -1 && swap.value == "" {
		swap.value = "-1"
	}
	knots := tie(nil, write{file: "memory.limit_in_bytes", value: decimal(m.Limit), field: "memory.limit"}, swap)
	knots = add(knots, write{file: "memory.soft_limit_in_bytes", value: decimal(m.Reservation), field: "memory.reservation"})
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		knots = add(knots, write{file: "memory.oom_control", value: "1", field: "memory.disableOOMKiller"})
	}
	if m.UseHierarchy != nil && *m.UseHierarchy {
		knots = add(knots, write{file: "memory.use_hierarchy", value: "1", field: "memory.useHierarchy", optional: true})
	}
	return add(knots, write{file: "memory.swappiness", value: given(m.Swappiness), field: "memory.swappiness"}), nil
}

// unifiedMemory is the memory controller of v2, whose limit of swap does not include memory.
func unifiedMemory(res *specs.LinuxResources) ([]knot, error) {
	m := res.Memory
	switch {
	case m == nil:
		return nil, nil
	case m.Swappiness != nil:
		return nil, lacking("swappiness", "memory.swappiness")
	case m.DisableOOMKiller != nil && *m.DisableOOMKiller:
		return nil, lacking("oom killer off", "memory.disableOOMKiller")
	}
	swap, err := swapOnly(m)
	if err != nil {
		return nil, fieldError("swap", "memory.swap", err)
	}
	knots := add(nil, write{file: "memory.swap.max", value: swap, field: "memory.swap", optional: swap == "max" || swap == "0"})
	knots = add(knots, write{file: "memory.max", value: orMax(m.Limit), field: "memory.limit"})
	return add(knots, write{file: "memory.low", value: orMax(m.Reservation), field: "memory.reservation"}), nil
}

// swapOnly returns v2's limit of swap for v1's of memory and swap together, or "" for none.
func swapOnly(m *specs.LinuxMemory) (string, error) {
	limit, both := value(m.Limit), value(m.Swap)
	switch {
	case both == -1, both == 0 && limit == -1:
		return "max", nil
	case both == 0:
		return "", nil
	case limit == -1:
		return strconv.FormatInt(both, 10), nil
	case limit == 0:
		return "", errors.New("needs a memory limit, as it is the sum of memory and swap")
	case both < limit:
		return "", fmt.Errorf("%d is less than the limit %d, and it is the sum of memory and swap", both, limit)
	}
	return strconv.FormatInt(both-limit, 10), nil
}

// checkMemory refuses limits that the group is above already, where v2 would begin to kill (memory.checkBeforeUpdate).
func (c *Cgroup) checkMemory(m *specs.LinuxMemory) error {
	if m == nil || m.CheckBeforeUpdate == nil || !*m.CheckBeforeUpdate || c.tree("memory") != nil {
		return nil
	}
	text, err := readFile(c.UnifiedDir() + "/memory.current")
	if err != nil {
		return nil // a group without the controller has nothing to check
	}
	usage, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return fieldError("memory limit", "memory.limit", err)
	}
	if swap := value(m.Swap); swap > 0 && swap <= usage {
		return fieldError("swap", "memory.swap", fmt.Errorf("rejecting memory+swap limit %d <= usage %d", swap, usage))
	}
	if limit := value(m.Limit); limit > 0 && limit <= usage {
		return fieldError("memory limit", "memory.limit", fmt.Errorf("rejecting memory limit %d <= usage %d", limit, usage))
	}
	return nil
}

// Ignored lists what res asks for and no current kernel has, for a warning.
func Ignored(res *specs.LinuxResources) []string {
	if res == nil || res.Memory == nil {
		return nil
	}
	var out []string
	//lint:ignore SA1019 it is still sent
	if res.Memory.Kernel != nil {
		out = append(out, "memory.kernel")
	}
	if res.Memory.KernelTCP != nil {
		out = append(out, "memory.kernelTCP")
	}
	return out
}

// lacking is the error for what cgroup v2 has no counterpart for.
func lacking(what, field string) error {
	return fieldError(what, field, fmt.Errorf("cgroup v2 has none: %w", errors.ErrUnsupported))
}
