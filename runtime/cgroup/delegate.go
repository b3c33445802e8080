package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// delegated are the files that are handed over where the kernel does not list them (cgroups(7), Cgroups delegation).
const delegated = "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n"

// Delegate hands the group in the v2 tree over to the user uid of this host, who may then make groups in it and move processes between
// them, but not change the group's own limits. On a v1 host there is nothing to hand over.
func (c *Cgroup) Delegate(uid int) error {
	dir := c.UnifiedDir()
	if dir == "" {
		return nil
	}
	list := delegated
	if text, err := os.ReadFile("/sys/kernel/cgroup/delegate"); err == nil {
		list = string(text)
	}
	if err := os.Chown(dir, uid, -1); err != nil {
		return fmt.Errorf("delegate cgroup %s: %w", c.path, err)
	}
	for _, name := range strings.Fields(list) {
		if err := os.Chown(dir+"/"+name, uid, -1); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delegate cgroup %s: %w", c.path, err)
		}
	}
	return nil
}
