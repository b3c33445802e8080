package cgroup

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestParseUnit(t *testing.T) {
	for path, want := range map[string]string{
		"":                       "system.slice zap-id.scope Scope",
		"machine.slice:podman:x": "machine.slice podman-x.scope Scope",
		":runc:x":                "system.slice runc-x.scope Scope",
		"a-b.slice:p:c-d.slice":  "a-b.slice c-d.slice Slice",
	} {
		u, err := ParseUnit(path, "id", false)
		if got := u.Slice + " " + u.Name + " " + u.kind(); err != nil || got != want {
			t.Errorf("%q: %s, %v; want %s", path, got, err, want)
		}
	}
	for _, path := range []string{"/a", "a:b", "a:b:c:d", "a.slice:b:", "a:b:c", "a/b.slice:c:d", "a--b.slice:c:d", "-a.slice:c:d"} {
		if u, err := ParseUnit(path, "id", false); err == nil {
			t.Errorf("%q: %+v", path, u)
		}
	}
	for slice, want := range map[string]string{"-.slice": "/", "a.slice": "/a.slice", "a-b-c.slice": "/a.slice/a-b.slice/a-b-c.slice"} {
		if got, err := ExpandSlice(slice); err != nil || got != want {
			t.Errorf("%s: %s, %v", slice, got, err)
		}
	}
}

func TestLimitProperties(t *testing.T) {
	for name, c := range map[string]struct {
		res    specs.LinuxResources
		v1, v2 string
	}{
		"memory": {
			specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(150)), Reservation: ptr(int64(50))}},
			"MemoryLimit=100", "MemoryMax=100 MemoryLow=50 MemorySwapMax=50",
		},
		"no limits": {
			specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}, Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}},
			"MemoryLimit=18446744073709551615 TasksMax=18446744073709551615",
			"MemoryMax=18446744073709551615 MemorySwapMax=18446744073709551615 TasksMax=18446744073709551615",
		},
		"quota": {
			specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(25500)), Period: ptr(uint64(100000)), Shares: ptr(uint64(1024))}},
			"CPUShares=1024 CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=260000", "CPUWeight=100 CPUQuotaPeriodUSec=100000 CPUQuotaPerSecUSec=260000",
		},
		"no quota": {
			specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(-1))}},
			"CPUQuotaPerSecUSec=18446744073709551615", "CPUQuotaPerSecUSec=18446744073709551615",
		},
		"idle":       {specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(1)), Shares: ptr(uint64(2))}}, "CPUShares=2", "CPUWeight=0"},
		"processors": {specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0-2,9"}}, "AllowedCPUs=[7 2]", "AllowedCPUs=[7 2]"},
		"unified": {
			specs.LinuxResources{Unified: map[string]string{
				"cpu.max": "max 50000", "memory.high": "max", "memory.min": "7", "pids.max": "0", "memory.oom.group": "1", "io.max": "x",
			}},
			"CPUQuotaPeriodUSec=50000 CPUQuotaPerSecUSec=18446744073709551615 MemoryHigh=18446744073709551615 MemoryMin=7 OOMPolicy=kill TasksMax=1",
			"CPUQuotaPeriodUSec=50000 CPUQuotaPerSecUSec=18446744073709551615 MemoryHigh=18446744073709551615 MemoryMin=7 OOMPolicy=kill TasksMax=1",
		},
	} {
		for unified, want := range map[bool]string{false: c.v1, true: c.v2} {
			properties, rounded, err := limitProperties(&c.res, unified, func() int { return 257 }, true)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			var got []string
			for _, p := range properties {
				got = append(got, fmt.Sprintf("%s=%v", p.Name, p.Value.Value()))
			}
			if text := strings.Join(got, " "); text != want {
				t.Errorf("%s, v2 %v:\n%s\nwant\n%s", name, unified, text, want)
			}
			if name == "quota" && (*rounded.CPU.Quota != 26000 || *c.res.CPU.Quota != 25500) {
				t.Errorf("quota %d, before %d", *rounded.CPU.Quota, *c.res.CPU.Quota)
			}
		}
	}
}

func TestDeviceProperties(t *testing.T) {
	none := specs.LinuxDeviceCgroup{Access: "rwm"}
	disk := specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: ptr(int64(8)), Access: "r"}
	got := deviceProperties([]specs.LinuxDeviceCgroup{none, disk})
	if len(got) != 2 {
		t.Fatalf("%v", got)
	}
	list, _ := got[1].Value.Value().([]deviceAllow)
	for _, want := range []deviceAllow{{"block-8", "r"}, {"char-*", "m"}, {"/dev/char/1:3", "rwm"}, {"char-136", "rwm"}} {
		if !slices.Contains(list, want) {
			t.Errorf("%v is not in %v", want, list)
		}
	}
	denied := disk
	denied.Allow = false
	for _, rules := range [][]specs.LinuxDeviceCgroup{nil, {disk}, {none, denied}} {
		if got := deviceProperties(rules); got != nil {
			t.Errorf("%v: %v", rules, got)
		}
	}
}
