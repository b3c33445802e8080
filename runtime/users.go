package runtime

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/boot"
)

// unprivileged says whether this process can do nothing outside of a user namespace of its own.
func unprivileged() bool { return heldCapabilities()&(1<<unix.CAP_SYS_ADMIN) == 0 }

// errNeedsUsers is what a container without a user namespace ends in when its maker has no privileges.
var errNeedsUsers = errors.New("rootless container requires user namespaces (config.json: linux.namespaces); zap spec --rootless writes such a bundle")

// newUsers says whether the container gets a new user namespace.
func newUsers(s *specs.Spec) bool { return namespaceIndex(s, specs.UserNamespace, "new") >= 0 }

// namespaceIndex finds a namespace in the specification, one that is "new", "joined" or "any"; -1 when there is none.
func namespaceIndex(s *specs.Spec, kind specs.LinuxNamespaceType, which string) int {
	if s.Linux == nil {
		return -1
	}
	return slices.IndexFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool {
		return ns.Type == kind && (which == "any" || (which == "new") == (ns.Path == ""))
	})
}

// mapUsers writes the id maps of a new user namespace, and what only somebody outside of it may set, and lets the child go on.
func (c *creation) mapUsers() error {
	if !newUsers(c.bundle.Spec) {
		return nil
	}
	l := c.bundle.Spec.Linux
	for _, m := range []idMap{
		{c.child.Pid, "uid", "linux.uidMappings", l.UIDMappings, os.Geteuid(), unix.CAP_SETUID},
		{c.child.Pid, "gid", "linux.gidMappings", l.GIDMappings, os.Getegid(), unix.CAP_SETGID},
	} {
		if err := m.write(); err != nil {
			return fmt.Errorf("map users: %w (config.json: %s)", err, m.path)
		}
	}
	if score := c.bundle.Spec.Process.OOMScoreAdj; score != nil {
		err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", c.child.Pid), []byte(strconv.Itoa(*score)), 0)
		if err != nil && (!unprivileged() || !errors.Is(err, fs.ErrPermission)) {
			return fmt.Errorf("set oom_score_adj %d: %w (config.json: process.oomScoreAdj)", *score, err)
		}
	}
	return c.child.Continue()
}

// idMap is one of the two maps of a user namespace.
type idMap struct {
	pid        int
	kind       string // uid or gid
	path       string
	list       []specs.LinuxIDMapping
	own        int // this process's id
	capability int // that lets it write any map
}

// write writes the map: by itself when this process may, otherwise by newuidmap(1) and newgidmap(1), which know whom subordinate ids belong
// to. Everybody may map the own id, as a group only after giving up setgroups(2) for the namespace (user_namespaces(7)).
func (m *idMap) write() error {
	if heldCapabilities()&(1<<m.capability) == 0 {
		if len(m.list) != 1 || m.list[0].Size != 1 || int(m.list[0].HostID) != m.own {
			return m.writeByTool()
		}
		if m.kind == "gid" {
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/setgroups", m.pid), []byte("deny"), 0); err != nil {
				return err
			}
		}
	}
	var lines strings.Builder
	for _, e := range m.list {
		fmt.Fprintf(&lines, "%d %d %d\n", e.ContainerID, e.HostID, e.Size)
	}
	return os.WriteFile(fmt.Sprintf("/proc/%d/%s_map", m.pid, m.kind), []byte(lines.String()), 0)
}

func (m *idMap) writeByTool() error {
	args := []string{strconv.Itoa(m.pid)}
	for _, e := range m.list {
		for _, n := range []uint32{e.ContainerID, e.HostID, e.Size} {
			args = append(args, strconv.FormatUint(uint64(n), 10))
		}
	}
	tool := "new" + m.kind + "map"
	output, err := exec.Command(tool, args...).CombinedOutput()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("more than the own %s is mapped: %w; install the package uidmap, or map one id only", m.kind, err)
	case err != nil:
		return fmt.Errorf("%s: %w: %s; give the user these ids in /etc/sub%s", tool, err, bytes.TrimSpace(output), m.kind)
	}
	return nil
}

// checkUsers compares the maps of a user namespace that was joined by its path with those in the specification, if it has any: engines
// repeat them there, and others would mean another container than the one that is asked for.
func (c *creation) checkUsers() error {
	i := namespaceIndex(c.bundle.Spec, specs.UserNamespace, "joined")
	if i < 0 {
		return nil
	}
	l := c.bundle.Spec.Linux
	for _, m := range []struct {
		kind string
		list []specs.LinuxIDMapping
	}{{"uid", l.UIDMappings}, {"gid", l.GIDMappings}} {
		if len(m.list) == 0 {
			continue
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s_map", c.child.Pid, m.kind))
		if err != nil {
			return fmt.Errorf("read maps of user namespace: %w", err)
		}
		var have []specs.LinuxIDMapping
		for line := range strings.Lines(string(data)) {
			var e specs.LinuxIDMapping
			if _, err := fmt.Sscan(line, &e.ContainerID, &e.HostID, &e.Size); err != nil {
				return fmt.Errorf("read maps of user namespace: %w", err)
			}
			have = append(have, e)
		}
		if !slices.Equal(joinMaps(have), joinMaps(m.list)) {
			return fmt.Errorf("join user namespace %s: it has other %[2]sMappings than the specification (config.json: linux.%[2]sMappings)",
				l.Namespaces[i].Path, m.kind)
		}
	}
	return nil
}

// joinMaps puts a map in order and what is adjacent together.
func joinMaps(list []specs.LinuxIDMapping) []specs.LinuxIDMapping {
	list = slices.SortedFunc(slices.Values(list), func(a, b specs.LinuxIDMapping) int { return cmp.Compare(a.ContainerID, b.ContainerID) })
	var out []specs.LinuxIDMapping
	for _, e := range list {
		if n := len(out) - 1; n >= 0 && out[n].ContainerID+out[n].Size == e.ContainerID && out[n].HostID+out[n].Size == e.HostID {
			out[n].Size += e.Size
			continue
		}
		out = append(out, e)
	}
	return out
}

// openNamespaces opens the namespaces that the container joins by their paths.
func (c *creation) openNamespaces(b *boot.Bind, slots []string) error {
	for i, ns := range c.namespaces() {
		if ns.Path == "" {
			continue
		}
		file, err := os.OpenFile(ns.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err == nil {
			c.closers = append(c.closers, func() { file.Close() })
			err = isNamespace(file, ns)
		}
		if err != nil {
			return fmt.Errorf("open %s namespace: %w (config.json: linux.namespaces[%d].path)", ns.Type, err, i)
		}
		if slot := boot.NamespaceSlot(ns.Type); ns.Type != specs.PIDNamespace || slices.Contains(slots, slot) {
			b.Slots[slot] = int(file.Fd())
		} else {
			b.PIDNamespace = file
		}
	}
	return nil
}

// isNamespace checks that a file is a namespace of the type that the specification says.
func isNamespace(file *os.File, ns specs.LinuxNamespace) error {
	kind, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_NSTYPE)
	switch {
	case errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s is no namespace", ns.Path)
	case err != nil:
		return fmt.Errorf("look at %s: %w", ns.Path, err)
	case uint64(kind) != boot.NamespaceFlag(ns.Type):
		return fmt.Errorf("%s is a namespace of another type", ns.Path)
	}
	return nil
}
