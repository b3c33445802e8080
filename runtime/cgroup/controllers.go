package cgroup

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// contains says whether a list of words separated by spaces has a word.
func contains(list, word string) bool { return slices.Contains(strings.Fields(list), word) }

// offered are the controllers that the v2 tree has.
func (h *hierarchy) offered() string {
	list, _ := readFile(h.mount + "/cgroup.controllers")
	return list
}

// enableControllers hands controllers down from the root of the v2 tree to the group: those in needed must come; of the others all that
// a v2 host has come along where they can, so that the use of things is counted and an update finds them.
func (c *Cgroup) enableControllers(needed []string) error {
	mount, dir := c.tree("").mount, c.UnifiedDir()
	for i := len(mount); i < len(dir); i++ {
		if dir[i] != '/' {
			continue
		}
		if err := enableIn(dir[:i], needed, c.unifiedOnly()); err != nil {
			return err
		}
	}
	return c.checkType(needed)
}

// enableIn makes a group hand controllers down to its children, in one write unless the kernel refuses one of them.
func enableIn(dir string, needed []string, all bool) error {
	offered, err := readFile(dir + "/cgroup.controllers")
	if err != nil {
		return err
	}
	enabled, err := readFile(dir + "/cgroup.subtree_control")
	if err != nil {
		return err
	}
	have, can := strings.Fields(enabled), strings.Fields(offered)
	for _, name := range needed {
		if !slices.Contains(can, name) {
			return fmt.Errorf("enable controller %s: %s does not offer it: %w (config.json: linux.resources)",
				name, dir, errors.ErrUnsupported)
		}
	}
	missing := slices.DeleteFunc(can, func(name string) bool {
		return slices.Contains(have, name) || !all && !slices.Contains(needed, name)
	})
	file := dir + "/cgroup.subtree_control"
	if len(missing) == 0 || len(missing) > 1 && writeFile(file, "+"+strings.Join(missing, " +")) == nil {
		return nil
	}
	for _, name := range missing {
		err := writeFile(file, "+"+name)
		switch {
		case err == nil || !slices.Contains(needed, name):
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("enable controller %s: %w (%s has processes of its own: choose another linux.cgroupsPath)", name, err, dir)
		default:
			return fmt.Errorf("enable controller %s: %w", name, err)
		}
	}
	return nil
}

// domainControllers can't work on single threads (Documentation/admin-guide/cgroup-v2.rst, Threads).
var domainControllers = []string{"memory", "io", "hugetlb", "rdma", "misc"}

// checkType makes a v2 group one that processes can enter. A group below one with processes and controllers is in an invalid state: it
// becomes a threaded one when nothing is asked of it that can't be had there.
func (c *Cgroup) checkType(needed []string) error {
	if !c.unifiedOnly() {
		return nil
	}
	file := c.UnifiedDir() + "/cgroup.type"
	kind, err := readFile(file)
	if err != nil || kind == "domain" {
		return err
	}
	domain := slices.IndexFunc(needed, func(name string) bool { return slices.Contains(domainControllers, name) })
	switch {
	case domain >= 0:
		return fmt.Errorf("use controller %s in a group that is in %s mode (%s): %w (config.json: linux.resources)",
			needed[domain], kind, c.UnifiedDir(), errors.ErrUnsupported)
	case kind == "domain invalid":
		return writeFile(file, "threaded")
	}
	return nil
}
