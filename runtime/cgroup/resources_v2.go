package cgroup

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// applyUnified writes limits into a v2 group.
func (c *Cgroup) applyUnified(res *specs.LinuxResources) error {
	return nil
}
