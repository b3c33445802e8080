package cgroup

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// limitProperties turns limits into properties of a unit (systemd.resource-control(5)), those of v1 or of v2. What systemd has no name for
// is only written into the group. Its quotas are in whole percents: the limits come back with a quota that is rounded up to one. version is
// asked only when it decides. fresh says that the unit is new.
func limitProperties(res *specs.LinuxResources, unified bool, version func() int, fresh bool) ([]dbus.Property, *specs.LinuxResources, error) {
	if res == nil {
		return nil, nil, nil
	}
	var out []dbus.Property
	add := func(name string, value any) { out = append(out, property(name, value)) }
	if fresh {
		out = append(out, deviceProperties(res.Devices)...)
	}
	if m := res.Memory; m != nil {
		if err := memoryProperties(m, unified, add); err != nil {
			return nil, nil, err
		}
	}
	rounded := *res
	if u := res.CPU; u != nil {
		cpu := *u
		if err := cpuProperties(&cpu, unified, version, add); err != nil {
			return nil, nil, err
		}
		rounded.CPU = &cpu
	}
	if res.Pids != nil && res.Pids.Limit != nil {
		limit := uint64(math.MaxUint64)
		if n := *res.Pids.Limit; n >= 0 {
			limit = uint64(max(n, 1))
		}
		add("TasksMax", limit)
	}
	if !unified && res.BlockIO != nil && res.BlockIO.Weight != nil && *res.BlockIO.Weight != 0 {
		add("BlockIOWeight", uint64(*res.BlockIO.Weight))
	}
	for _, key := range sortedKeys(res.Unified) {
		if err := unifiedProperty(key, strings.TrimSpace(res.Unified[key]), version, fresh, add); err != nil {
			return nil, nil, fieldError(key, "unified", err)
		}
	}
	return out, &rounded, nil
}

func memoryProperties(m *specs.LinuxMemory, unified bool, add func(string, any)) error {
	limit := value(m.Limit)
	if !unified {
		if limit != 0 {
			add("MemoryLimit", uint64(limit))
		}
		return nil
	}
	if limit != 0 {
		add("MemoryMax", uint64(limit)) // -1 is the largest number, systemd's infinity
	}
	if low := value(m.Reservation); low != 0 {
		add("MemoryLow", uint64(low))
	}
	swap, err := swapOnly(m)
	if err != nil {
		return fieldError("swap", "memory.swap", err)
	}
	if swap != "" {
		add("MemorySwapMax", number(swap))
	}
	return nil
}

// idleVersion is the first systemd that takes a weight of 0 for idle.
const idleVersion = 252

// cpuProperties changes the quota to what systemd makes of it.
func cpuProperties(u *specs.LinuxCPU, unified bool, version func() int, add func(string, any)) error {
	shares := value(u.Shares)
	switch {
	case !unified && shares != 0:
		add("CPUShares", shares)
	case unified && value(u.Idle) == 1 && version() >= idleVersion:
		add("CPUWeight", uint64(0))
	case unified && shares != 0 && value(u.Idle) != 1:
		add("CPUWeight", weight(shares))
	}
	quota, period := value(u.Quota), value(u.Period)
	if quota != 0 || period != 0 {
		if rounded := quotaProperties(quota, period, add); rounded != quota {
			u.Quota = &rounded
		}
	}
	for name, list := range map[string]string{"AllowedCPUs": u.Cpus, "AllowedMemoryNodes": u.Mems} {
		if list == "" {
			continue
		}
		bits, err := listBits(list)
		if err != nil {
			return fieldError(name, "cpu", err)
		}
		if version() >= 244 {
			add(name, bits)
		}
	}
	return nil
}

// quotaProperties returns the quota that systemd will set, in whole percents of a processor.
func quotaProperties(quota int64, period uint64, add func(string, any)) int64 {
	if period != 0 {
		add("CPUQuotaPeriodUSec", period)
	} else {
		period = defaultPeriod
	}
	perSecond := uint64(math.MaxUint64)
	if quota > 0 {
		const percent = 10000
		perSecond = uint64(quota) * 1000000 / period
		if rest := perSecond % percent; rest != 0 {
			perSecond += percent - rest
			quota = int64(perSecond * period / 1000000)
		}
	}
	add("CPUQuotaPerSecUSec", perSecond)
	return quota
}

// unifiedProperty is the property of a file of cgroup v2, if there is one.
func unifiedProperty(key, text string, version func() int, fresh bool, add func(string, any)) error {
	names := map[string]string{
		"memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.min": "MemoryMin", "memory.max": "MemoryMax",
		"memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax", "cpu.weight": "CPUWeight",
		"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes",
	}
	switch key {
	case "cpu.idle":
		if text == "1" && version() >= idleVersion {
			add("CPUWeight", uint64(0))
		}
	case "cpu.max":
		words := strings.Fields(text)
		if len(words) < 1 || len(words) > 2 {
			return fmt.Errorf("%q is not QUOTA [PERIOD]", text)
		}
		quota, period := int64(-1), uint64(defaultPeriod)
		var err error
		if words[0] != "max" {
			quota, err = strconv.ParseInt(words[0], 10, 64)
		}
		if len(words) == 2 && err == nil {
			period, err = strconv.ParseUint(words[1], 10, 64)
		}
		if err != nil || period == 0 {
			return fmt.Errorf("%q is not QUOTA [PERIOD]", text)
		}
		quotaProperties(quota, period, add)
	case "cpuset.cpus", "cpuset.mems":
		bits, err := listBits(text)
		if err != nil {
			return err
		}
		if version() >= 244 {
			add(names[key], bits)
		}
	case "memory.oom.group": // can't be changed later
		if policy := map[string]string{"0": "continue", "1": "kill"}[text]; fresh && policy != "" && version() >= 253 {
			add("OOMPolicy", policy)
		}
	default:
		name, ok := names[key]
		if !ok {
			return nil
		}
		n := uint64(math.MaxUint64)
		if text != "max" {
			var err error
			if n, err = strconv.ParseUint(text, 10, 64); err != nil {
				return err
			}
		}
		if name == "TasksMax" {
			n = max(n, 1)
		}
		add(name, n)
	}
	return nil
}

// listBits turns a list of numbers, 0-3,7, into systemd's bits: eight to a byte, the lowest first.
func listBits(list string) ([]byte, error) {
	var bits []byte
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.ParseUint(from, 10, 16)
		last := first
		if err == nil && isRange {
			last, err = strconv.ParseUint(to, 10, 16)
		}
		if err != nil || last < first {
			return nil, fmt.Errorf("%q is no list of numbers such as 0-3,7", list)
		}
		for n := first; n <= last; n++ {
			for uint64(len(bits)) <= n/8 {
				bits = append(bits, 0)
			}
			bits[n/8] |= 1 << (n % 8)
		}
	}
	if len(bits) == 0 {
		return nil, errors.New("an empty list of numbers")
	}
	return bits, nil
}

// deviceAllow is an entry of systemd's list of allowed devices.
type deviceAllow struct{ Path, Access string }

// deviceProperties tells systemd the device rules where it can say them too: everything denied, and some allowed. Other rules are zap's
// own business, in the group.
func deviceProperties(rules []specs.LinuxDeviceCgroup) []dbus.Property {
	if len(rules) == 0 || rules[0].Allow || deviceType(rules[0]) != "a" || rules[0].Major != nil || deviceAccess(rules[0]) != "rwm" {
		return nil
	}
	list := []deviceAllow{}
	for _, r := range withDefaults(rules)[1:] {
		kind := map[string]string{"c": "char", "b": "block"}[deviceType(r)]
		major, minor := deviceNumber(r.Major), deviceNumber(r.Minor)
		path := "/dev/" + kind + "/" + major + ":" + minor
		switch {
		case !r.Allow || kind == "" || major == "*" && minor != "*":
			return nil
		case major == "*":
			path = kind + "-*"
		case minor == "*":
			path = kind + "-" + major
		}
		list = append(list, deviceAllow{path, deviceAccess(r)})
	}
	return []dbus.Property{property("DevicePolicy", "strict"), property("DeviceAllow", list)}
}
