package spec_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/spec"
)

func ptr[T any](v T) *T { return &v }

// wrongSpecs breaks the default specification in one way each and says what Validate must answer.
var wrongSpecs = map[string]func(s *specs.Spec){
	"ociVersion: missing":                                  func(s *specs.Spec) { s.Version = "" },
	`ociVersion: "one" is not a version`:                   func(s *specs.Spec) { s.Version = "one" },
	"ociVersion: version 2.0.0 is not supported, only 1.x": func(s *specs.Spec) { s.Version = "2.0.0" },
	"process: missing":                                     func(s *specs.Spec) { s.Process = nil },
	"process.args: empty":                                  func(s *specs.Spec) { s.Process.Args = nil },
	"process.args[0]: empty":                               func(s *specs.Spec) { s.Process.Args = []string{""} },
	"process.args[1]: contains a zero byte":                func(s *specs.Spec) { s.Process.Args = []string{"a", "b\x00"} },
	"process.args[1]: longer than 131071 bytes":            func(s *specs.Spec) { s.Process.Args = []string{"a", strings.Repeat("b", 131072)} },
	"process.args: longer than 6291456 bytes together":     func(s *specs.Spec) { s.Process.Args = repeat(strings.Repeat("b", 131000), 49) },
	`process.env[0]: "PATH" has no =`:                      func(s *specs.Spec) { s.Process.Env = []string{"PATH"} },
	`process.env[0]: "=x" has no name before the =`:        func(s *specs.Spec) { s.Process.Env = []string{"=x"} },
	"process.cwd: empty":                                   func(s *specs.Spec) { s.Process.Cwd = "" },
	`process.cwd: "tmp" is not an absolute path`:           func(s *specs.Spec) { s.Process.Cwd = "tmp" },
	"process.cwd: longer than 4095 bytes":                  func(s *specs.Spec) { s.Process.Cwd = "/" + strings.Repeat("x", 4095) },
	"process.consoleSize: 70000 by 1, more than 65535":     func(s *specs.Spec) { s.Process.ConsoleSize = &specs.Box{Height: 70000, Width: 1} },
	"process.user.umask: 01000 is more than 0777":          func(s *specs.Spec) { s.Process.User.Umask = ptr(uint32(0o1000)) },
	"process.capabilities.effective[0]: CAP_AUDIT_WRITE is not in permitted": func(s *specs.Spec) {
		s.Process.Capabilities.Permitted = []string{"CAP_KILL", "CAP_NET_BIND_SERVICE"}
	},
	`process.rlimits[0].type: unknown limit "NOFILE"`: func(s *specs.Spec) { s.Process.Rlimits[0].Type = "NOFILE" },
	"process.rlimits[1].type: RLIMIT_NOFILE is there twice": func(s *specs.Spec) {
		s.Process.Rlimits = append(s.Process.Rlimits, s.Process.Rlimits[0])
	},
	"process.rlimits[0].soft: 2 is more than the hard limit 1": func(s *specs.Spec) {
		s.Process.Rlimits[0].Soft, s.Process.Rlimits[0].Hard = 2, 1
	},
	"process.oomScoreAdj: -1001 is not between -1000 and 1000": func(s *specs.Spec) { s.Process.OOMScoreAdj = ptr(-1001) },
	`process.scheduler.policy: unknown value "SCHED_FAST"`: func(s *specs.Spec) {
		s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_FAST"}
	},
	"process.scheduler.nice: 20 is not between -20 and 19": func(s *specs.Spec) {
		s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_OTHER", Nice: 20}
	},
	"process.scheduler.priority: 0 is not between 1 and 99": func(s *specs.Spec) {
		s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_RR"}
	},
	"process.scheduler.priority: only for SCHED_FIFO and SCHED_RR": func(s *specs.Spec) {
		s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_BATCH", Priority: 1}
	},
	"process.scheduler: runtime, deadline and period are only for SCHED_DEADLINE": func(s *specs.Spec) {
		s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_IDLE", Period: 1}
	},
	`process.scheduler.flags[1]: unknown value "SCHED_FLAG_X"`: func(s *specs.Spec) {
		s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_OTHER", Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagReclaim, "SCHED_FLAG_X"}}
	},
	`linux.memoryPolicy.mode: invalid memory policy mode ""`: func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Nodes: "0-7"}
	},
	"linux.memoryPolicy.nodes: MPOL_DEFAULT: mode requires 0 nodes but got 8": func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolDefault, Nodes: "0-7"}
	},
	"linux.memoryPolicy.nodes: MPOL_BIND: mode requires at least one node but got 0": func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind}
	},
	`linux.memoryPolicy.nodes: invalid memory policy node list "0-9876543210", not one such as 0-3,8`: func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0-9876543210"}
	},
	`linux.memoryPolicy.flags[0]: invalid memory policy flag "badflag"`: func(s *specs.Spec) {
		s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolLocal, Flags: []specs.MemoryPolicyFlagType{"badflag"}}
	},
	`linux.personality.flags[0]: unknown flag "ADDR_NO_RANDOMIZE"`: func(s *specs.Spec) {
		s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux, Flags: []specs.LinuxPersonalityFlag{"ADDR_NO_RANDOMIZE"}}
	},
	`linux.intelRdt.closID: "../x" is not a name of a directory`: func(s *specs.Spec) {
		s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "../x"}
	},
	`linux.intelRdt.memBwSchema: "L3:0=f" does not begin with MB:`: func(s *specs.Spec) {
		s.Linux.IntelRdt = &specs.LinuxIntelRdt{MemBwSchema: "L3:0=f"}
	},
	"linux.intelRdt.schemata[0]: more than one line": func(s *specs.Spec) {
		s.Linux.IntelRdt = &specs.LinuxIntelRdt{Schemata: []string{"L3:0=f\nMB:0=20"}}
	},
	`linux.netDevices.a.name: "x%d%d" is not a name of a network device`: func(s *specs.Spec) {
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a": {Name: "x%d%d"}, "b": {Name: "x%d"}}
	},
	"linux.netDevices.b: a and b can't both be b in the container": func(s *specs.Spec) {
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"a": {Name: "b"}, "b": {}}
	},
	"linux.timeOffsets: a time namespace that is joined by its path has its offsets already": func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace, Path: "/proc/1/ns/time"})
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1}}
	},
	"process.ioPriority.priority: 8 is not between 0 and 7": func(s *specs.Spec) {
		s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
	},
	`process.execCPUAffinity.final: "all" is not a list such as 0-3,8`: func(s *specs.Spec) {
		s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0-1,3", Final: "all"}
	},
	"root: missing":    func(s *specs.Spec) { s.Root = nil },
	"root.path: empty": func(s *specs.Spec) { s.Root.Path = "" },
	"hostname: longer than 64 bytes": func(s *specs.Spec) {
		s.Hostname = strings.Repeat("h", 65)
	},
	"hostname: needs a uts namespace in linux.namespaces": func(s *specs.Spec) { drop(s, specs.UTSNamespace) },
	"mounts[0].destination: empty":                        func(s *specs.Spec) { s.Mounts[0].Destination = "" },
	"mounts[0].type: empty, and it is no bind mount":      func(s *specs.Spec) { s.Mounts[0].Type = "" },
	"mounts[1].options[1]: ridmap needs uidMappings and gidMappings, or a user namespace in linux.namespaces": func(s *specs.Spec) {
		s.Mounts[1].Options = []string{"rbind", "ridmap"}
	},
	"mounts[1]: the ids of a mount that is there can't be mapped": func(s *specs.Spec) {
		s.Mounts[1].UIDMappings = []specs.LinuxIDMapping{{Size: 1}}
		s.Mounts[1].GIDMappings = s.Mounts[1].UIDMappings
		s.Mounts[1].Options = []string{"remount"}
	},
	"mounts[1]: only a bind mount can be id-mapped in a container with a user namespace": func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/proc/1/ns/user"})
		s.Mounts[1].Options = []string{"idmap"}
	},
	"mounts: 4097 entries, more than 4096": func(s *specs.Spec) { s.Mounts = make([]specs.Mount, 4097) },
	"mounts[0].source: empty, and a bind mount needs one": func(s *specs.Spec) {
		s.Mounts[0] = specs.Mount{Destination: "/x", Options: []string{"ro", "rbind"}}
	},
	"mounts[0]: uidMappings and gidMappings go together": func(s *specs.Spec) {
		s.Mounts[0].UIDMappings = []specs.LinuxIDMapping{{Size: 1}}
	},
	`hooks.poststop[0].path: "bin/x" is not an absolute path`: func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "bin/x"}}}
	},
	"hooks.createRuntime[0].timeout: 0 is not a positive number of seconds": func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/x", Timeout: ptr(0)}}}
	},
	"annotations: a key is empty":                           func(s *specs.Spec) { s.Annotations = map[string]string{"": "x"} },
	`linux.namespaces[0].type: unknown namespace "process"`: func(s *specs.Spec) { s.Linux.Namespaces[0].Type = "process" },
	"linux.namespaces[5].type: pid is there twice": func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces[:5:5], s.Linux.Namespaces[0])
	},
	`linux.namespaces[1].path: "net" is not an absolute path`: func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "net" },
	"linux: a new user namespace needs uidMappings and gidMappings": func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	},
	"linux: uidMappings and gidMappings need a user namespace in linux.namespaces": func(s *specs.Spec) {
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}}
	},
	"linux.uidMappings[0].size: 0 ids":              userns(specs.LinuxIDMapping{}),
	"linux.uidMappings[0]: goes beyond the last id": userns(specs.LinuxIDMapping{HostID: 1 << 31, Size: 1 << 31}),
	"linux.uidMappings[1]: overlaps with linux.uidMappings[0]": userns(
		specs.LinuxIDMapping{HostID: 1000, Size: 10}, specs.LinuxIDMapping{ContainerID: 9, HostID: 5000, Size: 1},
	),
	"linux.sysctl.kernel.panic: belongs to no namespace and would change the host": sysctl("kernel.panic"),
	"linux.sysctl.net.ipv4.ip_forward: needs a network namespace in linux.namespaces": func(s *specs.Spec) {
		sysctl("net.ipv4.ip_forward")(s)
		drop(s, specs.NetworkNamespace)
	},
	"linux.sysctl.kernel/../x: not a sysctl": sysctl("kernel/../x"),
	`linux.cgroupsPath: "/a/../../b" has a .. in it`: func(s *specs.Spec) {
		s.Linux.CgroupsPath = "/a/../../b"
	},
	`linux.devices[0].type: unknown value "x"`: device(specs.LinuxDevice{Path: "/dev/x", Type: "x"}),
	"linux.devices[0].major: -1 is not between 0 and 4095": device(
		specs.LinuxDevice{Path: "/dev/x", Type: "c", Major: -1},
	),
	"linux.devices[0].fileMode: 0200777 is not a mode of a file": device(
		specs.LinuxDevice{Path: "/dev/x", Type: "p", FileMode: ptr(os.FileMode(0o200777))},
	),
	`linux.maskedPaths[0]: "x" is not an absolute path`: func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"x"} },
	`linux.readonlyPaths[1]: empty`: func(s *specs.Spec) {
		s.Linux.ReadonlyPaths = []string{"/x", ""}
	},
	`linux.rootfsPropagation: unknown value "public"`: func(s *specs.Spec) { s.Linux.RootfsPropagation = "public" },
	`linux.personality.domain: unknown value "BSD"`: func(s *specs.Spec) {
		s.Linux.Personality = &specs.LinuxPersonality{Domain: "BSD"}
	},
	"linux.timeOffsets: needs a time namespace in linux.namespaces": func(s *specs.Spec) {
		s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}}
	},
	`linux.netDevices: "eth0/x" is not a name of a network device`: func(s *specs.Spec) {
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0/x": {}}
	},
}

func userns(m ...specs.LinuxIDMapping) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		s.Linux.UIDMappings = m
		s.Linux.GIDMappings = []specs.LinuxIDMapping{{Size: 1}}
	}
}

func sysctl(key string) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{key: "1"} }
}

func device(d specs.LinuxDevice) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{d} }
}

func drop(s *specs.Spec, t specs.LinuxNamespaceType) {
	var left []specs.LinuxNamespace
	for _, ns := range s.Linux.Namespaces {
		if ns.Type != t {
			left = append(left, ns)
		}
	}
	s.Linux.Namespaces = left
}

func repeat(s string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

// wrongResources does the same for linux.resources.
var wrongResources = map[string]specs.LinuxResources{
	`devices[0].type: unknown value "x"`:                        {Devices: []specs.LinuxDeviceCgroup{{Type: "x"}}},
	`devices[0].access: "rx" has other letters than r, w and m`: {Devices: []specs.LinuxDeviceCgroup{{Access: "rx"}}},
	"devices[0].minor: -2 is not between -1 and 1048575":        {Devices: []specs.LinuxDeviceCgroup{{Minor: ptr(int64(-2))}}},
	"memory.limit: -2 bytes":                                    {Memory: &specs.LinuxMemory{Limit: ptr(int64(-2))}},
	"memory.swappiness: 101 is not between 0 and 100":           {Memory: &specs.LinuxMemory{Swappiness: ptr(uint64(101))}},
	"memory.swap: needs a limit, as it is the sum of memory and swap": {
		Memory: &specs.LinuxMemory{Swap: ptr(int64(1 << 20))},
	},
	"memory.swap: 1 is less than the limit 2, and it is the sum of memory and swap": {
		Memory: &specs.LinuxMemory{Swap: ptr(int64(1)), Limit: ptr(int64(2))},
	},
	"memory.reservation: 3 is more than the limit 2": {
		Memory: &specs.LinuxMemory{Reservation: ptr(int64(3)), Limit: ptr(int64(2))},
	},
	"cpu.quota: 999 is less than 1000 microseconds":                {CPU: &specs.LinuxCPU{Quota: ptr(int64(999))}},
	"cpu.quota: -2 is less than 1000 microseconds":                 {CPU: &specs.LinuxCPU{Quota: ptr(int64(-2))}},
	"cpu.period: 999 is not between 1000 and 1000000 microseconds": {CPU: &specs.LinuxCPU{Period: ptr(uint64(999))}},
	"cpu.burst: 2000 is more than the quota 1000": {
		CPU: &specs.LinuxCPU{Quota: ptr(int64(1000)), Burst: ptr(uint64(2000))},
	},
	"cpu.idle: 2 is not between 0 and 1":           {CPU: &specs.LinuxCPU{Idle: ptr(int64(2))}},
	`cpu.cpus: "0;rm" is not a list such as 0-3,8`: {CPU: &specs.LinuxCPU{Cpus: "0;rm"}},
	"pids.limit: -2 is not between -1 and 4194304": {Pids: &specs.LinuxPids{Limit: ptr(int64(-2))}},
	"blockIO.weight: 5 is not between 10 and 1000": {BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(5))}},
	"blockIO.throttleReadBpsDevice[0].major: -8 is not between 0 and 4095": {BlockIO: &specs.LinuxBlockIO{
		ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: -8}}},
	}},
	`hugepageLimits[0].pageSize: "../x" is not a size such as 2MB`: {
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../x"}},
	},
	"hugepageLimits[1].pageSize: 2MB is there twice": {
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}, {Pagesize: "2MB"}},
	},
	`unified: "../memory.max" is not a file of cgroup v2`: {Unified: map[string]string{"../memory.max": "1"}},
	`network.priorities[0].name: "" is not a name of a network device`: {
		Network: &specs.LinuxNetwork{Priorities: []specs.LinuxInterfacePriority{{}}},
	},
}

// wrongSeccomp does the same for linux.seccomp.
var wrongSeccomp = map[string]specs.LinuxSeccomp{
	`defaultAction: unknown value "SCMP_ACT_MAYBE"`: {DefaultAction: "SCMP_ACT_MAYBE"},
	"defaultErrnoRet: 4096 is more than 4095":       {DefaultAction: specs.ActErrno, DefaultErrnoRet: ptr(uint(4096))},
	"syscalls[0].names: empty": {
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Action: specs.ActErrno}},
	},
	"syscalls[0].args[0].index: 6 is more than 5": {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
		Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}},
	}}},
	`architectures[0]: unknown value "x86"`: {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"x86"}},
	`flags[1]: unknown value "TSYNC"`: {
		DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_TSYNC", "TSYNC"},
	},
	"flags[0]: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY": {
		DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv},
	},
	"defaultErrnoRet: SCMP_ACT_ALLOW takes no errno":                  {DefaultAction: specs.ActAllow, DefaultErrnoRet: ptr(uint(1))},
	"defaultAction: SCMP_ACT_NOTIFY cannot be used as default action": {DefaultAction: specs.ActNotify},
	"listenerPath: seccomp listenerPath is not set": {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{
		Names: []string{"mkdir"}, Action: specs.ActNotify,
	}}},
	`listenerPath: "@agent" is not an absolute path`: {
		DefaultAction: specs.ActAllow, ListenerPath: "@agent",
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}},
	},
	"syscalls[0].names[1]: SCMP_ACT_NOTIFY cannot be used for the write syscall": {
		DefaultAction: specs.ActAllow, ListenerPath: "/agent",
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "write"}, Action: specs.ActNotify}},
	},
}

func TestValidateNamesTheField(t *testing.T) {
	cases := map[string]*specs.Spec{}
	for want, change := range wrongSpecs {
		s := spec.Default()
		change(s)
		cases[want] = s
	}
	for want, res := range wrongResources {
		s := spec.Default()
		s.Linux.Resources = &res
		cases["linux.resources."+want] = s
	}
	for want, filter := range wrongSeccomp {
		s := spec.Default()
		s.Linux.Seccomp = &filter
		cases["linux.seccomp."+want] = s
	}
	for want, s := range cases {
		t.Run(want, func(t *testing.T) {
			err := spec.Validate(s)
			if err == nil {
				t.Fatal("is valid")
			}
			if first, _, _ := strings.Cut(err.Error(), "\n"); first != "config.json: "+want {
				t.Errorf("says %q", err)
			}
			var field *spec.FieldError
			if !errors.As(err, &field) {
				t.Errorf("%T is no FieldError", err)
			}
		})
	}
}

func TestValidateReportsAllAtOnceAndBounded(t *testing.T) {
	s := spec.Default()
	s.Process.Args = nil
	s.Root.Path = ""
	s.Linux.Namespaces[0].Type = "x"
	if got := strings.Count(spec.Validate(s).Error(), "config.json: "); got != 3 {
		t.Errorf("%d errors, want 3:\n%v", got, spec.Validate(s))
	}
	s = spec.Default()
	s.Process.Env = repeat("x", 10_000)
	if got := strings.Count(spec.Validate(s).Error(), "\n") + 1; got != 20 {
		t.Errorf("%d errors for ten thousand mistakes, want 20", got)
	}
}

// TestValidateAccepts has what real engines write and what is at the edge of a bound.
func TestValidateAccepts(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"older version":    func(s *specs.Spec) { s.Version = "1.0.2-dev" },
		"no linux section": func(s *specs.Spec) { s.Linux, s.Hostname = nil, "" },
		"unlimited memory": func(s *specs.Spec) {
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(-1))}
		},
		"zero means default": func(s *specs.Spec) {
			s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: ptr(int64(0)), Period: ptr(uint64(0)), Shares: ptr(uint64(0))}
		},
		"device wildcard":  func(s *specs.Spec) { s.Linux.Resources.Devices[0].Major = ptr(int64(-1)) },
		"joined namespace": func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/proc/1/ns/net" },
		"user namespace":   userns(specs.LinuxIDMapping{HostID: 100000, Size: 65536}, specs.LinuxIDMapping{ContainerID: 65536, HostID: 1, Size: 1}),
		"namespaced sysctls": func(s *specs.Spec) {
			s.Linux.Sysctl = map[string]string{"net/ipv4/ip_forward": "1", "kernel.shmmax": "1", "fs.mqueue.msg_max": "10", "kernel.domainname": "x"}
		},
		"longest argument": func(s *specs.Spec) { s.Process.Args = []string{strings.Repeat("a", 131071)} },
		"root is absolute": func(s *specs.Spec) { s.Root.Path = "/srv/x" },
		"hook": func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/true", Timeout: ptr(1)}}}
		},
	} {
		s := spec.Default()
		change(s)
		if err := spec.Validate(s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestValidateProcess(t *testing.T) {
	if err := spec.ValidateProcess(spec.Default().Process); err != nil {
		t.Error(err)
	}
	if err := spec.ValidateProcess(nil); err == nil {
		t.Error("no process is valid")
	}
	err := spec.ValidateProcess(&specs.Process{Args: []string{"sh"}, Cwd: "x"})
	if want := `config.json: process.cwd: "x" is not an absolute path`; err == nil || err.Error() != want {
		t.Errorf("says %v, want %s", err, want)
	}
}

// TestUnknownCapabilities wants a warning and no error for names from another time.
func TestUnknownCapabilities(t *testing.T) {
	s := spec.Default()
	s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, "CAP_FUTURE", "ALL")
	s.Process.Capabilities.Effective = append(s.Process.Capabilities.Effective, "CAP_FUTURE")
	if err := spec.Validate(s); err != nil {
		t.Error(err)
	}
	if got := spec.UnknownCapabilities(s.Process.Capabilities); !slices.Equal(got, []string{"ALL", "CAP_FUTURE"}) {
		t.Errorf("got %q", got)
	}
}

// TestConsoleSizeWithoutTerminal wants a console size to be ignored where there is no console, whatever it is (config.md, Process).
func TestConsoleSizeWithoutTerminal(t *testing.T) {
	s := spec.Default()
	s.Process.Terminal, s.Process.ConsoleSize = false, &specs.Box{Height: 1 << 30}
	if err := spec.Validate(s); err != nil {
		t.Error(err)
	}
}
