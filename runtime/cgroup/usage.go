package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// MemoryUsage returns how much memory the group and its children use that is
// not a cache of files, in bytes: anonymous pages and shared memory, which is
// what moves with a pod. It is 0 where no memory controller is at work.
func (c *Cgroup) MemoryUsage() (int64, error) {
	h, anon, shared := c.tree("memory"), "total_rss", "total_shmem"
	if h == nil {
		h, anon, shared = c.tree(""), "anon", "shmem"
	}
	if h == nil {
		return 0, nil
	}
	text, err := readFile(c.dir(h) + "/memory.stat")
	switch {
	case errors.Is(err, fs.ErrNotExist) && h.unified: // the controller is not enabled for it
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read memory usage of cgroup %s: %w", c.path, err)
	}
	sum, err := sumOf(text, anon, shared)
	if err != nil {
		return 0, fmt.Errorf("read memory usage of cgroup %s: %s: %w", c.path, c.dir(h)+"/memory.stat", err)
	}
	return sum, nil
}

// sumOf adds up the values of the names in the lines "NAME VALUE" of text. A
// name that is not there counts as 0.
func sumOf(text string, names ...string) (int64, error) {
	var sum int64
	for line := range strings.SplitSeq(text, "\n") {
		name, value, _ := strings.Cut(line, " ")
		for _, n := range names {
			if n != name {
				continue
			}
			v, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("value of %s: %w", n, err)
			}
			sum += v
		}
	}
	return sum, nil
}
