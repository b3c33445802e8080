package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// maxDepth bounds how deep below the group its children are looked for.
const maxDepth = 64

// Procs returns the processes in the group and all its children, sorted. It asks one hierarchy: the freezer's, which is the
// one that decides what stops in a freeze, or v2. A process in a pid namespace that the caller cannot see into is 0.
func (c *Cgroup) Procs() ([]int, error) {
	pids, err := walkPids(c.dir(c.primary()), nil, 0)
	if err != nil {
		return nil, fmt.Errorf("list processes of cgroup %s: %w", c.path, err)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// primary returns the hierarchy that says which processes belong to the group.
func (c *Cgroup) primary() *hierarchy {
	if h := c.tree("freezer"); h != nil {
		return h
	}
	if h := c.tree(""); h != nil {
		return h
	}
	return c.trees[0]
}

// allProcs returns the processes that are in the group in any hierarchy: one that died half-way into it, or that a privileged
// container moved, is not in all of them. Directories that are gone count as empty.
func (c *Cgroup) allProcs() ([]int, error) {
	var pids []int
	var err error
	for _, h := range c.trees {
		if pids, err = walkPids(c.dir(h), pids, 0); err != nil && !gone(err) {
			return nil, err
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// gone says whether an error means that a group was removed meanwhile.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}

// walkPids appends the processes in dir and below it to pids.
func walkPids(dir string, pids []int, depth int) ([]int, error) {
	own, err := readPids(dir)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // a threaded v2 group lists its processes in its parent
		return pids, err
	}
	pids = append(pids, own...)
	children, err := childDirs(dir)
	if err != nil {
		return pids, err
	}
	if depth == maxDepth && len(children) > 0 {
		return pids, fmt.Errorf("walk %s: more than %d levels", dir, maxDepth)
	}
	for _, child := range children {
		if pids, err = walkPids(child, pids, depth+1); err != nil && !gone(err) {
			return pids, err
		}
	}
	return pids, nil
}

// childDirs returns the groups directly below dir. A cgroup directory has two links and one for each child, so that one stat
// is enough to know that there are none.
func childDirs(dir string) ([]string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Nlink <= 2 {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, dir+"/"+e.Name())
		}
	}
	return out, nil
}
