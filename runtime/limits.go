package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

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
		err = c.makeScope()
	} else {
		path := cgroupPath(c.id, c.bundle)
		if err := c.noteCgroup(path); err != nil {
			return err
		}
		c.cgroup, err = cgroup.Create(path, res)
	}
	if err != nil && c.options.Rootless && (errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)) {
		return c.withoutCgroup(err)
	}
	if err != nil {
		return err
	}
	return c.delegate()
}

// withoutCgroup goes on without a cgroup when nothing in the specification needs one.
func (c *creation) withoutCgroup(cause error) error {
	c.cgroup = nil // Create returns none with an error
	l := c.bundle.Spec.Linux
	if l == nil {
		return nil
	}
	const hint = "a user without privileges needs a cgroup that was delegated to it"
	if l.CgroupsPath != "" {
		return fmt.Errorf("%w; %s (config.json: linux.cgroupsPath)", cause, hint)
	}
	if r := l.Resources; r != nil {
		rest := *r
		rest.Devices = nil // whoever is root of nothing but a user namespace can use no device that was not there before
		if !reflect.ValueOf(rest).IsZero() {
			return fmt.Errorf("%w; %s (config.json: linux.resources)", cause, hint)
		}
	}
	c.runtime.log.Debug("run without a cgroup", "container", c.id, "error", cause.Error())
	return nil
}

// explain adds to the error of a creation that the kernel killed for want of memory, when it did.
func (c *creation) explain(err error) error {
	if c.cgroup == nil || c.child == nil {
		return err
	}
	if kills, kerr := c.cgroup.OOMKills(); kerr != nil || kills == 0 {
		return err
	}
	const text = "container init was OOM-killed (memory limit too low?): %w (config.json: linux.resources.memory.limit)"
	var stage *StageError
	if errors.As(err, &stage) {
		stage.Err = fmt.Errorf(text, stage.Err)
		return err
	}
	return fmt.Errorf(text, err)
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
