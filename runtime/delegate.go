package runtime

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// delegate hands the container's cgroup over to its root when that is another user of the host, and the container sees no other groups
// and may write to its own.
func (c *creation) delegate() error {
	if uid, ok := delegatee(c.bundle.Spec); ok {
		return c.cgroup.Delegate(uid)
	}
	return nil
}

// delegatee says which user of the host the container's cgroup belongs to, if another one than the runtime's.
func delegatee(s *specs.Spec) (uid int, ok bool) {
	if s.Linux == nil || !makes(s.Linux, specs.UserNamespace) || !makes(s.Linux, specs.CgroupNamespace) {
		return 0, false
	}
	mounted := slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool {
		return m.Destination == "/sys/fs/cgroup" && (m.Type == "cgroup" || m.Type == "cgroup2") && !slices.Contains(m.Options, "ro")
	})
	if !mounted {
		return 0, false
	}
	for _, m := range s.Linux.UIDMappings {
		if m.ContainerID == 0 && m.Size > 0 {
			return int(m.HostID), true
		}
	}
	return 0, false
}

// makes says whether the container has a new namespace of a kind.
func makes(l *specs.Linux, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(l.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == kind && ns.Path == "" })
}
