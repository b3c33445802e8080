package spec

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Machine is what a running program may depend on without asking for it, and what two hosts therefore compare.
type Machine struct {
	// Arch is the architecture in Go's words, "amd64".
	Arch string `json:"arch"`
	// Kernel is the kernel's release, "6.12.0-1-amd64".
	Kernel string `json:"kernel"`
	// CRIU is CRIU's version, 40201 for 4.2.1; 0 when there is none that works.
	CRIU int `json:"criu"`
	// CPU are the features of the processor that a program can use, in the kernel's words, sorted.
	CPU []string `json:"cpu"`
	// PageSize is the size of a memory page in bytes.
	PageSize int `json:"page_size"`
	// Cgroup is how cgroups are laid out: "v1", "hybrid", "v2" or "none".
	Cgroup string `json:"cgroup"`
	// Controllers are the cgroup controllers that limits can use, by their v1 names, sorted.
	Controllers []string `json:"controllers"`
	// LSM are the security modules that label processes: "apparmor", "selinux".
	LSM []string `json:"lsm,omitempty"`
	// Clock is the host's real-time clock in nanoseconds since 1970.
	Clock int64 `json:"clock"`
}

// ReadMachine describes this machine. criu is the version of the CRIU that would be used, or 0.
func ReadMachine(criu int) (*Machine, error) {
	var name syscall.Utsname
	if err := syscall.Uname(&name); err != nil {
		return nil, fmt.Errorf("read kernel release: %w", err)
	}
	cpuinfo, err := readStart("/proc/cpuinfo", 32<<10)
	if err != nil {
		return nil, fmt.Errorf("read processor features: %w", err)
	}
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read cgroup mounts: %w", err)
	}
	mode, controllers := readCgroups(mountinfo)
	return &Machine{
		Arch: runtime.GOARCH, Kernel: utsString(name.Release[:]), CRIU: criu, CPU: parseFeatures(string(cpuinfo)),
		PageSize: os.Getpagesize(), Cgroup: mode, Controllers: controllers, LSM: readLSM(), Clock: time.Now().UnixNano(),
	}, nil
}

// readStart reads the first bytes of a file: of /proc/cpuinfo the first processors, as every further one costs time.
func readStart(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// utsString converts a field of utsname, whose element type depends on the architecture.
func utsString[T int8 | uint8](field []T) string {
	var b strings.Builder
	for _, c := range field {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}

// programFeatures are the words of x86's /proc/cpuinfo for what a program can use: instructions and registers. The others are
// about the kernel, the clock, power, virtualization and protections against flaws; they differ between kernels on one
// processor, and no program misses them.
var programFeatures = strings.Fields(`
	3dnow 3dnowext 3dnowprefetch abm adx cldemote clflush clflushopt clwb clzero cmov cmpccxadd cx16 cx8 enqcmd erms f16c fpu
	fsgsbase fsrm fsrs fxsr fxsr_opt fzrm gfni hle kl lahf_lm lm lwp misalignsse mmx mmxext movbe movdir64b movdiri
	movrs mpx ospke pclmulqdq pku pni popcnt prefetchi raoint rdpid rdpru rdrand rdseed rdtscp rtm serialize sm3 sm4 syscall
	tbm tsc tsxldtrk umip user_shstk vaes vpclmulqdq waitpkg widekl xgetbv1 xop`)

// programFamilies are prefixes of such words that grow with each generation of processors.
var programFamilies = []string{"aes", "amx", "apx", "avx", "bmi", "fma", "sha", "sse", "ssse", "xsave"}

// usable says whether a word of x86's flags is about something that a program can use.
func usable(word string) bool {
	return slices.Contains(programFeatures, word) ||
		slices.ContainsFunc(programFamilies, func(p string) bool { return strings.HasPrefix(word, p) })
}

// parseFeatures returns the features that the first processor of /proc/cpuinfo has and a program can use, sorted: such words
// of x86's "flags", or all of arm64's "Features", which are only about programs.
func parseFeatures(cpuinfo string) []string {
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		key = strings.TrimSpace(key)
		words := strings.Fields(value)
		switch key {
		case "flags":
			words = slices.DeleteFunc(words, func(w string) bool { return !usable(w) })
		case "Features", "features", "isa":
		default:
			continue
		}
		slices.Sort(words)
		return slices.Compact(words)
	}
	return nil
}

// readCgroups returns the cgroup layout and the controllers that the content of mountinfo shows.
func readCgroups(mountinfo []byte) (mode string, controllers []string) {
	v1, v2 := false, ""
	for line := range strings.Lines(string(mountinfo)) {
		left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 {
			continue
		}
		switch {
		case r[0] == "cgroup":
			v1 = true
			for _, word := range strings.Split(r[2], ",") {
				if slices.Contains(controllerNames, word) {
					controllers = append(controllers, word)
				}
			}
		case r[0] == "cgroup2" && v2 == "":
			v2 = l[4]
		}
	}
	if v2 != "" && !v1 { // beside v1, what the v2 tree has is left alone
		data, _ := os.ReadFile(v2 + "/cgroup.controllers")
		controllers = legacyNames(strings.Fields(string(data)))
	}
	slices.Sort(controllers)
	controllers = slices.Compact(controllers)
	switch {
	case v1 && v2 != "":
		return "hybrid", controllers
	case v1:
		return "v1", controllers
	case v2 != "":
		return "v2", controllers
	}
	return "none", nil
}

// controllerNames are the controllers of cgroup v1.
var controllerNames = []string{
	"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "net_cls", "net_prio", "perf_event",
	"pids", "rdma",
}

// legacyNames translates v2's controllers into v1's. v2 always has the freezer, and filters devices with BPF.
func legacyNames(v2 []string) []string {
	out := []string{"devices", "freezer"}
	for _, name := range v2 {
		switch name {
		case "io":
			name = "blkio"
		case "cpu":
			out = append(out, "cpuacct")
		}
		out = append(out, name)
	}
	return out
}

// readLSM returns the active security modules that label processes, in the order in which CRIU looks for them.
func readLSM() []string {
	data, err := os.ReadFile("/sys/kernel/security/lsm")
	active := strings.Split(strings.TrimSpace(string(data)), ",")
	var out []string
	for name, path := range map[string]string{
		"apparmor": "/sys/kernel/security/apparmor", "selinux": "/sys/fs/selinux/enforce",
	} {
		_, serr := os.Stat(path)
		if (err == nil && slices.Contains(active, name)) || (err != nil && serr == nil) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}
