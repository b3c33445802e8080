package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// hierarchy is one mounted cgroup tree.
type hierarchy struct {
	mount   string   // where it is mounted
	names   []string // v1: its controllers, or "name=systemd"; v2: ""
	unified bool     // v2
}

// has says whether a v1 hierarchy carries a controller.
func (h *hierarchy) has(controller string) bool {
	return slices.Contains(h.names, controller)
}

// v1Controllers are the controllers that v1 can have; other words in a mount's options are options.
var v1Controllers = []string{
	"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "misc", "net_cls", "net_prio",
	"perf_event", "pids", "rdma",
}

// host is what discover found, once per process: mounts of cgroups do not come and go.
var host = sync.OnceValues(func() ([]*hierarchy, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return discover(data)
})

// discover finds the cgroup hierarchies in the content of a mountinfo file. Of several mounts of one hierarchy the first
// below /sys/fs/cgroup counts, then the first at all. Hierarchies come in the order of the file, v2 last.
func discover(mountinfo []byte) ([]*hierarchy, error) {
	var found []*hierarchy
	for s := bufio.NewScanner(bytes.NewReader(mountinfo)); s.Scan(); {
		if h := parseMount(s.Text()); h != nil {
			found = append(found, h)
		}
	}
	preferred := func(h *hierarchy) bool { return strings.HasPrefix(h.mount+"/", "/sys/fs/cgroup/") }
	slices.SortStableFunc(found, func(a, b *hierarchy) int {
		switch {
		case a.unified != b.unified:
			return order(!a.unified)
		case preferred(a) != preferred(b):
			return order(preferred(a))
		}
		return 0
	})
	var out []*hierarchy
	for _, h := range found {
		same := func(o *hierarchy) bool { return o.unified == h.unified && slices.Equal(o.names, h.names) }
		if !slices.ContainsFunc(out, same) {
			out = append(out, h)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("find cgroup hierarchies: none is mounted (mount cgroup2 on /sys/fs/cgroup)")
	}
	return out, nil
}

// order turns "a comes first" into a comparison's result.
func order(first bool) int {
	if first {
		return -1
	}
	return 1
}

// parseMount returns the hierarchy that a line of mountinfo describes, or nil when the line is about something else.
func parseMount(line string) *hierarchy {
	before, after, ok := strings.Cut(line, " - ")
	if !ok || !strings.HasPrefix(after, "cgroup") {
		return nil
	}
	left, right := strings.Fields(before), strings.Fields(after)
	if len(left) < 5 || len(right) < 3 {
		return nil
	}
	mount := unescape(left[4])
	switch right[0] {
	case "cgroup2":
		return &hierarchy{mount: mount, names: []string{""}, unified: true}
	case "cgroup":
		h := &hierarchy{mount: mount}
		for _, o := range strings.Split(right[2], ",") {
			if slices.Contains(v1Controllers, o) || strings.HasPrefix(o, "name=") {
				h.names = append(h.names, o)
			}
		}
		if len(h.names) > 0 {
			return h
		}
	}
	return nil
}

// unescape undoes the octal escapes of mountinfo, \040 for a space.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Mode returns how the host's cgroups are laid out: "v1", "hybrid" (v1 and a v2 tree), "v2", or "none" when no cgroup file
// system is mounted.
func Mode() string {
	hs, err := host()
	if err != nil {
		return "none"
	}
	return modeOf(hs)
}

func modeOf(hs []*hierarchy) string {
	v1 := slices.ContainsFunc(hs, func(h *hierarchy) bool { return !h.unified })
	v2 := slices.ContainsFunc(hs, func(h *hierarchy) bool { return h.unified })
	switch {
	case v1 && v2:
		return "hybrid"
	case v1:
		return "v1"
	}
	return "v2"
}

// cleanPath checks a group's path and returns it absolute, relative to the hierarchies' mount points.
func cleanPath(path string) (string, error) {
	switch {
	case path == "" || filepath.Clean("/"+path) == "/":
		return "", fmt.Errorf("use cgroup %q: the root is not a container's", path)
	case len(path) > 3500 || strings.ContainsAny(path, "\x00\n"):
		return "", fmt.Errorf("use cgroup %q: not a usable path", path[:min(len(path), 64)])
	case slices.Contains(strings.Split(path, "/"), ".."):
		return "", fmt.Errorf("use cgroup %q: has a .. in it", path)
	}
	return filepath.Clean("/" + path), nil
}
