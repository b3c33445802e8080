package pod

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// While a pod is restored CRIU is in its cgroup and needs memory of its own, so
// that a pod which fits its limit tightly would not come through. The limit is
// set when the tree stands, or, if CRIU is what it is too small for, when CRIU
// has ended.

// tightness is how much memory, in bytes, is not in the kernel's count of a
// cgroup's anonymous memory: page tables, sockets, CRIU's own.
const tightness = 16 << 20

// withoutMemory are the resources but for memory.
func withoutMemory(all *specs.LinuxResources) *specs.LinuxResources {
	if all == nil {
		return nil
	}
	r := *all
	r.Memory = nil
	return &r
}

// memory is the pod's limit of memory; nil if it has none.
func (a *arrival) memory() *specs.LinuxMemory {
	if r := a.job.Bundle.Spec.Linux.Resources; r != nil {
		return r.Memory
	}
	return nil
}

// limitMemory sets the pod's memory limits while the restored tree stands
// still. A pod that does not fit is an error.
func (a *arrival) limitMemory() error {
	m := a.memory()
	if m == nil {
		return nil
	}
	if m.Limit != nil && *m.Limit > 0 {
		used, err := a.cgroup.MemoryUsage()
		if err != nil {
			return err
		}
		own, err := anonymousMemory(a.session.Pid())
		if err != nil {
			return err
		}
		if used-own > *m.Limit {
			return fmt.Errorf("limit memory: the pod uses %d bytes here and may use %d", used-own, *m.Limit)
		}
		if used+tightness > *m.Limit {
			a.tight = true
			return nil
		}
	}
	return a.cgroup.Set(&specs.LinuxResources{Memory: m})
}

// limitLate sets limits that had to wait for CRIU's end. The pod runs; if they
// can't be set within a second it goes on without.
func (a *arrival) limitLate() (err error) {
	if !a.tight {
		return nil
	}
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = a.cgroup.Set(&specs.LinuxResources{Memory: a.memory()}); err == nil {
			return nil
		}
	}
	return err
}

// anonymousMemory is how much anonymous memory a process has, in bytes
// (RssAnon of /proc/PID/status, proc(5)).
func anonymousMemory(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("read %s: no RssAnon", path)
}
