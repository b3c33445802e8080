package cgroup

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// pidsLimit is the pids controller, the same in v1 and v2. A limit of 0 means 1, as systemd knows no less: a group without any process is
// no container.
func pidsLimit(res *specs.LinuxResources) ([]knot, error) {
	if res.Pids == nil || res.Pids.Limit == nil {
		return nil, nil
	}
	limit := "max"
	if n := *res.Pids.Limit; n >= 0 {
		limit = strconv.FormatInt(max(n, 1), 10)
	}
	return add(nil, write{file: "pids.max", value: limit, field: "pids.limit"}), nil
}

func legacyHugepages(res *specs.LinuxResources) ([]knot, error) {
	return hugepages(res, "limit_in_bytes"), nil
}

func unifiedHugepages(res *specs.LinuxResources) ([]knot, error) { return hugepages(res, "max"), nil }

// hugepages limits what is used of each size of pages and, where the kernel counts it, what is reserved.
func hugepages(res *specs.LinuxResources, name string) []knot {
	var knots []knot
	for i, l := range res.HugepageLimits {
		field, value := fmt.Sprintf("hugepageLimits[%d]", i), strconv.FormatUint(l.Limit, 10)
		knots = add(knots, write{file: "hugetlb." + l.Pagesize + "." + name, value: value, field: field})
		knots = add(knots, write{file: "hugetlb." + l.Pagesize + ".rsvd." + name, value: value, field: field, optional: true})
	}
	return knots
}

// networkClass marks the group's packets for tc(8); v1 only.
func networkClass(res *specs.LinuxResources) ([]knot, error) {
	if res.Network == nil || res.Network.ClassID == nil || *res.Network.ClassID == 0 {
		return nil, nil
	}
	return add(nil, write{file: "net_cls.classid", value: given(res.Network.ClassID), field: "network.classID"}), nil
}

// networkPriorities gives the group's packets priorities by device; v1 only.
func networkPriorities(res *specs.LinuxResources) ([]knot, error) {
	if res.Network == nil {
		return nil, nil
	}
	var knots []knot
	for i, p := range res.Network.Priorities {
		value := p.Name + " " + strconv.FormatUint(uint64(p.Priority), 10)
		knots = add(knots, write{file: "net_prio.ifpriomap", value: value, field: fmt.Sprintf("network.priorities[%d]", i)})
	}
	return knots, nil
}

// rdmaLimits is the rdma controller, the same in v1 and v2.
func rdmaLimits(res *specs.LinuxResources) ([]knot, error) {
	var knots []knot
	for _, device := range sortedKeys(res.Rdma) {
		var parts []string
		l := res.Rdma[device]
		if l.HcaHandles != nil {
			parts = append(parts, "hca_handle="+given(l.HcaHandles))
		}
		if l.HcaObjects != nil {
			parts = append(parts, "hca_object="+given(l.HcaObjects))
		}
		if len(parts) > 0 {
			value := device + " " + strings.Join(parts, " ")
			knots = add(knots, write{file: "rdma.max", value: value, field: "rdma[" + strconv.Quote(device) + "]"})
		}
	}
	return knots, nil
}

// sortedKeys returns the keys of a map in order.
func sortedKeys[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
