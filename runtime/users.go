package runtime

import (
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mapUsers writes the id maps of a new user namespace and lets the child go on.
func (c *creation) mapUsers() error {
	fresh := false
	for _, ns := range c.namespaces() {
		fresh = fresh || ns.Type == specs.UserNamespace && ns.Path == ""
	}
	if !fresh {
		return nil
	}
	l := c.bundle.Spec.Linux
	for _, m := range []struct {
		file, path string
		list       []specs.LinuxIDMapping
	}{{"uid_map", "linux.uidMappings", l.UIDMappings}, {"gid_map", "linux.gidMappings", l.GIDMappings}} {
		var lines strings.Builder
		for _, e := range m.list {
			fmt.Fprintf(&lines, "%d %d %d\n", e.ContainerID, e.HostID, e.Size)
		}
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", c.child.Pid, m.file), []byte(lines.String()), 0); err != nil {
			return fmt.Errorf("map users: %w (config.json: %s)", err, m.path)
		}
	}
	return c.child.Continue()
}
