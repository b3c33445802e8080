package runtime

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/spec"
)

// makeCgroup makes the container's cgroup with its limits.
func (c *creation) makeCgroup() (err error) {
	res := resources(c.bundle)
	for _, field := range cgroup.Ignored(res) {
		c.runtime.log.Warn("ignore limit of kernel memory: kernels have none", "field", "linux.resources."+field)
	}
	if c.options.SystemdCgroup {
		return c.makeScope()
	}
	c.cgroup, err = cgroup.Create(cgroupPath(c.id, c.bundle), res)
	return err
}

// cgroupPath is where the container's cgroup is: what the specification says, or the container's name below the top.
func cgroupPath(id string, b *spec.Bundle) string {
	if b.Spec.Linux != nil && b.Spec.Linux.CgroupsPath != "" {
		return b.Spec.Linux.CgroupsPath
	}
	return "/" + id
}

func resources(b *spec.Bundle) *specs.LinuxResources {
	if b.Spec.Linux == nil {
		return nil
	}
	return b.Spec.Linux.Resources
}
