package spec

import (
	"fmt"
	"regexp"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var pageSizePattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[1-9][0-9]{0,5}(B|KB|MB|GB|TB)$`)
})

// resources checks the limits. What the kernel alone can judge, such as a limit below what is in use, is left to it.
func (c *checker) resources(at string, r *specs.LinuxResources) {
	if r == nil {
		return
	}
	c.deviceRules(at+".devices", r.Devices)
	c.memory(at+".memory", r.Memory)
	c.cpu(at+".cpu", r.CPU)
	if r.Pids != nil && r.Pids.Limit != nil {
		c.between(at+".pids.limit", *r.Pids.Limit, -1, 1<<22)
	}
	c.blockIO(at+".blockIO", r.BlockIO)
	c.hugepages(at+".hugepageLimits", r.HugepageLimits)
	if r.Network != nil {
		for i, p := range r.Network.Priorities {
			if p.Name == "" || len(p.Name) > maxInterface {
				c.errorf(fmt.Sprintf("%s.network.priorities[%d].name", at, i),
					"%q is not a name of a network device", clip(p.Name))
			}
		}
	}
	if c.count(at+".unified", len(r.Unified), 1024) {
		for _, key := range sortedKeys(r.Unified) {
			if key == "" || strings.ContainsAny(key, "/\x00") || !strings.Contains(key, ".") {
				c.errorf(at+".unified", "%q is not a file of cgroup v2", clip(key))
			}
		}
	}
}

func (c *checker) deviceRules(at string, rules []specs.LinuxDeviceCgroup) {
	if !c.count(at, len(rules), maxEntries) {
		return
	}
	for i, r := range rules {
		each := fmt.Sprintf("%s[%d]", at, i)
		c.oneOf(each+".type", r.Type, "", "a", "b", "c")
		if strings.Trim(r.Access, "rwma") != "" || len(r.Access) > 3 { // an a, as for the type, is sent and means nothing
			c.errorf(each+".access", "%q has other letters than r, w and m", clip(r.Access))
		}
		for _, n := range []struct {
			name  string
			value *int64
			high  int64
		}{{"major", r.Major, 1<<12 - 1}, {"minor", r.Minor, 1<<20 - 1}} {
			if n.value != nil {
				c.between(each+"."+n.name, *n.value, -1, n.high)
			}
		}
	}
}

func (c *checker) memory(at string, m *specs.LinuxMemory) {
	if m == nil {
		return
	}
	for _, f := range []struct {
		name  string
		value *int64
	}{{"limit", m.Limit}, {"reservation", m.Reservation}, {"swap", m.Swap}, {"kernelTCP", m.KernelTCP}} {
		if f.value != nil && *f.value < -1 {
			c.errorf(at+"."+f.name, "%d bytes", *f.value)
		}
	}
	if m.Swappiness != nil && *m.Swappiness > 100 {
		c.errorf(at+".swappiness", "%d is not between 0 and 100", *m.Swappiness)
	}
	limit, swap := value(m.Limit), value(m.Swap)
	switch {
	case swap > 0 && limit <= 0:
		c.errorf(at+".swap", "needs a limit, as it is the sum of memory and swap")
	case swap > 0 && swap < limit:
		c.errorf(at+".swap", "%d is less than the limit %d, and it is the sum of memory and swap", swap, limit)
	}
	if r := value(m.Reservation); r > 0 && limit > 0 && r > limit {
		c.errorf(at+".reservation", "%d is more than the limit %d", r, limit)
	}
}

func (c *checker) cpu(at string, u *specs.LinuxCPU) {
	if u == nil {
		return
	}
	if u.Quota != nil && *u.Quota != 0 && *u.Quota != -1 && *u.Quota < 1000 {
		c.errorf(at+".quota", "%d is less than 1000 microseconds", *u.Quota)
	}
	if u.Period != nil && *u.Period != 0 && (*u.Period < 1000 || *u.Period > 1_000_000) {
		c.errorf(at+".period", "%d is not between 1000 and 1000000 microseconds", *u.Period)
	}
	if u.Burst != nil && value(u.Quota) > 0 && *u.Burst > uint64(*u.Quota) {
		c.errorf(at+".burst", "%d is more than the quota %d", *u.Burst, *u.Quota)
	}
	if u.Idle != nil {
		c.between(at+".idle", *u.Idle, 0, 1)
	}
	c.list(at+".cpus", u.Cpus)
	c.list(at+".mems", u.Mems)
}

func (c *checker) blockIO(at string, b *specs.LinuxBlockIO) {
	if b == nil {
		return
	}
	weight := func(at string, w *uint16) {
		if w != nil && *w != 0 && (*w < 10 || *w > 1000) {
			c.errorf(at, "%d is not between 10 and 1000", *w)
		}
	}
	device := func(at string, d specs.LinuxBlockIODevice) {
		c.between(at+".major", d.Major, 0, 1<<12-1)
		c.between(at+".minor", d.Minor, 0, 1<<20-1)
	}
	weight(at+".weight", b.Weight)
	weight(at+".leafWeight", b.LeafWeight)
	for i, d := range b.WeightDevice {
		each := fmt.Sprintf("%s.weightDevice[%d]", at, i)
		device(each, d.LinuxBlockIODevice)
		weight(each+".weight", d.Weight)
		weight(each+".leafWeight", d.LeafWeight)
	}
	for _, l := range []struct {
		name string
		list []specs.LinuxThrottleDevice
	}{
		{"throttleReadBpsDevice", b.ThrottleReadBpsDevice},
		{"throttleWriteBpsDevice", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", b.ThrottleReadIOPSDevice},
		{"throttleWriteIOPSDevice", b.ThrottleWriteIOPSDevice},
	} {
		for i, d := range l.list {
			device(fmt.Sprintf("%s.%s[%d]", at, l.name, i), d.LinuxBlockIODevice)
		}
	}
}

func (c *checker) hugepages(at string, limits []specs.LinuxHugepageLimit) {
	if !c.count(at, len(limits), 64) {
		return
	}
	seen := map[string]bool{}
	for i, l := range limits {
		each := fmt.Sprintf("%s[%d].pageSize", at, i)
		switch {
		case !pageSizePattern().MatchString(l.Pagesize):
			c.errorf(each, "%q is not a size such as 2MB", clip(l.Pagesize))
		case seen[l.Pagesize]:
			c.errorf(each, "%s is there twice", l.Pagesize)
		}
		seen[l.Pagesize] = true
	}
}

// value returns what a pointer points to, or 0.
func value(v *int64) int64 {
	if v == nil {
		return 0
	}
	return *v
}
