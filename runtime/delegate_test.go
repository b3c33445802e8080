package runtime

import (
	"os"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestDelegation: the root of a user namespace gets the container's cgroup when it may write there and sees no other.
func TestDelegation(t *testing.T) {
	const root = 100000
	own := func(s *specs.Spec, options ...string) {
		s.Linux.Namespaces = append(s.Linux.Namespaces,
			specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: root, Size: 65536}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: options})
	}
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		want   int
	}{
		"writable":  {func(s *specs.Spec) { own(s, "rw") }, root},
		"read-only": {func(s *specs.Spec) { own(s, "ro") }, 0},
		"no user namespace": {func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			b := l.bundle("sleep 1000")
			b.Spec.Mounts = slicesWithout(b.Spec.Mounts, "/sys/fs/cgroup")
			b.Spec.Linux.Namespaces = withoutKind(b.Spec.Linux.Namespaces, specs.CgroupNamespace)
			c.change(b.Spec)
			l.openTo(b.RootPath())
			made := l.create("one", b)
			cg, err := made.Cgroup()
			if err != nil {
				t.Fatal(err)
			}
			dir := cg.UnifiedDir()
			if dir == "" {
				t.Skip("needs a v2 tree")
			}
			for _, file := range []string{"", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"} {
				info, err := os.Stat(dir + file)
				if err != nil {
					t.Fatal(err)
				}
				if uid := int(info.Sys().(*syscall.Stat_t).Uid); uid != c.want {
					t.Errorf("%s belongs to %d, want %d", file, uid, c.want)
				}
			}
			if info, err := os.Stat(dir + "/cgroup.max.depth"); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
				t.Errorf("cgroup.max.depth: %v, %v", info, err)
			}
		})
	}
}

// openTo lets other users through to a directory.
func (l *lab) openTo(dir string) {
	l.t.Helper()
	for d := dir; strings.Count(d, "/") > 1; d = d[:strings.LastIndexByte(d, '/')] {
		if err := os.Chmod(d, 0o755); err != nil {
			l.t.Fatal(err)
		}
	}
	if err := os.Chown(dir, 100000, 100000); err != nil {
		l.t.Fatal(err)
	}
}

func slicesWithout(mounts []specs.Mount, destination string) (out []specs.Mount) {
	for _, m := range mounts {
		if m.Destination != destination {
			out = append(out, m)
		}
	}
	return out
}

func withoutKind(list []specs.LinuxNamespace, kind specs.LinuxNamespaceType) (out []specs.LinuxNamespace) {
	for _, ns := range list {
		if ns.Type != kind {
			out = append(out, ns)
		}
	}
	return out
}
