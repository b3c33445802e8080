package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// write is one value for one file of the group.
type write struct {
	file, value string
	field       string // where it is from, below linux.resources in config.json
	optional    bool   // a kernel without the file does the same by itself
	exact       bool   // the kernel may put a bound in place of the value, which is then refused
	instead     *write // what to write on a kernel without the file
}

// knot is writes whose values the kernel checks against each other: which order it takes depends on the values that are there. So those
// that it refuses are made again after the others, as long as that helps.
type knot []write

// section is what one controller is asked for, in the files of v1 or of v2, depending on where the host has the controller.
type section struct {
	v1, v2          string // the controller's names; v2 has no counterpart of some
	field           string // below linux.resources
	legacy, unified func(*specs.LinuxResources) ([]knot, error)
}

// sections are in the order in which they are applied.
var sections = []section{
	{"memory", "memory", "memory", legacyMemory, unifiedMemory},
	{"cpu", "cpu", "cpu", legacyCPU, unifiedCPU},
	{"cpuset", "cpuset", "cpu", cpusets, cpusets},
	{"pids", "pids", "pids", pidsLimit, pidsLimit},
	{"blkio", "io", "blockIO", legacyBlockIO, unifiedBlockIO},
	{"hugetlb", "hugetlb", "hugepageLimits", legacyHugepages, unifiedHugepages},
	{"net_cls", "", "network.classID", networkClass, nil},
	{"net_prio", "", "network.priorities", networkPriorities, nil},
	{"rdma", "rdma", "rdma", rdmaLimits, rdmaLimits},
}

// task is the knots of one section, and the directory of the hierarchy that they belong into.
type task struct {
	dir   string
	knots []knot
}

// plan turns limits into writes. It returns the controllers of v2 that they need too. It changes nothing.
func (c *Cgroup) plan(res *specs.LinuxResources) (tasks []task, needed []string, err error) {
	for _, s := range sections {
		h, write := c.tree(s.v1), s.legacy
		if h == nil && s.v2 != "" && c.offers(s.v2) {
			h, write = c.tree(""), s.unified
		}
		knots, err := write(res)
		if err != nil {
			return nil, nil, err
		}
		asked := slices.ContainsFunc(knots, knot.asks)
		switch {
		case h == nil && asked:
			return nil, nil, fieldError(s.v1, s.field, c.lacks(s.v1))
		case h == nil || len(knots) == 0:
			continue
		case h.unified && asked:
			needed = append(needed, s.v2)
		}
		tasks = append(tasks, task{c.dir(h), knots})
	}
	return tasks, needed, nil
}

// asks says whether the knot is more than that something is not limited, which needs no controller.
func (k knot) asks() bool { return slices.ContainsFunc(k, func(w write) bool { return !w.optional }) }

// lacks says that the host has no such controller.
func (c *Cgroup) lacks(controller string) error {
	if c.unifiedOnly() {
		return fmt.Errorf("cgroup v2 has no %s controller: %w", controller, errors.ErrUnsupported)
	}
	return notMounted(controller)
}

// offers says whether a controller is to be had in the v2 tree. On a v2 host this is left to find out for the one that enables it.
func (c *Cgroup) offers(controller string) bool {
	h := c.tree("")
	return h != nil && (c.unifiedOnly() || contains(h.offered(), controller))
}

// notMounted says that a controller is missing.
func notMounted(controller string) error {
	return fmt.Errorf("the %s controller is not mounted: %w", controller, errors.ErrUnsupported)
}

// do writes a knot into the group's directory.
func (k knot) do(dir string) error {
	for pending := k; len(pending) > 0; {
		var left knot
		var first error
		for _, w := range pending {
			if err := w.do(dir); err != nil {
				left = append(left, w)
				if first == nil {
					first = fieldError(w.file, w.field, err)
				}
			}
		}
		if len(left) == len(pending) {
			return first
		}
		pending = left
	}
	return nil
}

func (w write) do(dir string) error {
	err := writeFile(dir+"/"+w.file, w.value)
	missing := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && !exists(dir+"/"+w.file)
	switch {
	case missing && w.instead != nil:
		return w.instead.do(dir)
	case missing && w.optional:
		return nil
	case errors.Is(err, unix.EBUSY) && w.file == "memory.limit_in_bytes":
		usage, _ := readFile(dir + "/memory.usage_in_bytes")
		peak, _ := readFile(dir + "/memory.max_usage_in_bytes")
		return fmt.Errorf("%w (in use: %s bytes, at most: %s)", err, usage, peak)
	case err != nil || !w.exact:
		return err
	}
	is, err := readFile(dir + "/" + w.file)
	if err != nil || is == w.value {
		return err
	}
	bound := "maximum"
	if len(is) > len(w.value) || len(is) == len(w.value) && is > w.value {
		bound = "minimum"
	}
	return fmt.Errorf("the %s allowed %s is %s", bound, w.file, is)
}

// exists says whether a file is there.
func exists(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil
}

// add appends a knot of one write unless the value is empty.
func add(knots []knot, w write) []knot { return tie(knots, w) }

// tie appends a knot of the writes that have values.
func tie(knots []knot, writes ...write) []knot {
	var k knot
	for _, w := range writes {
		w.optional = w.optional || w.value == "max" || w.value == "-1"
		if w.value != "" {
			k = append(k, w)
		}
	}
	if len(k) == 0 {
		return knots
	}
	return append(knots, k)
}

// decimal formats a number; one that is missing or 0, which in a specification means the same, as "".
func decimal[T int64 | uint64 | uint16](v *T) string {
	if v == nil || *v == 0 {
		return ""
	}
	return given(v)
}

// given formats a number that may be missing, in which case it is "".
func given[T int64 | uint64 | uint32 | uint16](v *T) string {
	switch {
	case v == nil:
		return ""
	case *v < 0:
		return strconv.FormatInt(int64(*v), 10)
	}
	return strconv.FormatUint(uint64(*v), 10)
}

// orMax formats a limit for v2, where none is "max".
func orMax(v *int64) string {
	if v != nil && *v < 0 {
		return "max"
	}
	return decimal(v)
}

// value returns what a pointer points to, or 0.
func value[T int64 | uint64](v *T) T {
	if v == nil {
		return 0
	}
	return *v
}
