package e2e

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestContainerUnified moves a container with a cgroup namespace between hosts that have nothing but cgroup v2: on a machine that has
// v1 too, because they see nothing else.
func TestContainerUnified(t *testing.T) {
	l := NewLab(t)
	tr := &trip{Lab: l, alpha: l.Host("alpha"), beta: l.Host("beta"), client: l.NewClient(), before: map[*Host]Inventory{}}
	for _, h := range l.Hosts {
		h.Wrap = []string{"unshare", "--mount", "sh", "-c", `umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"`, "sh"}
		h.Serve(t)
	}
	for _, h := range l.Hosts {
		tr.before[h] = h.Inventory(t)
	}
	c := tr.newContainer(t, "unified", busyboxRootfs(t), []string{"sh", "-c", counting}, func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	})
	c.start()
	for _, hop := range [][2]*Host{{tr.alpha, tr.beta}, {tr.beta, tr.alpha}} {
		c.move(hop[0], hop[1])
		c.want(hop[1], map[string]string{
			"grep -x 1 /sys/fs/cgroup/cgroup.procs":                          "1",
			"grep ^0: /proc/1/cgroup":                                        "0::/",
			"grep cgroup /proc/1/mountinfo | cut -d' ' -f4,5 | tr '\\n' ' '": "/ /sys/fs/cgroup",
		})
	}
	c.end(tr.alpha)
}
