package spec

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// cgroup2Magic is the file system type of cgroup v2 in linux/magic.h.
const cgroup2Magic = 0x63677270

// hasOnlyCgroup2 says whether the host has the unified cgroup hierarchy and no other.
func hasOnlyCgroup2() bool {
	var st syscall.Statfs_t
	return syscall.Statfs("/sys/fs/cgroup", &st) == nil && int64(st.Type) == cgroup2Magic
}

// ReadHost finds out what this machine has for the pod of manifest m. dir is the directory that pods are stored in, or
// will be; cgroupPath the path of the cgroup that the pod will be in, whose parents may limit its memory ("": none). criu
// is the version of the CRIU that would restore it, or 0. Bridges, pods' Names and Addresses and the Layers are for the
// caller to add; the host's own addresses are there.
func ReadHost(m *Manifest, dir, cgroupPath string, criu int) (*Host, error) {
	machine, err := ReadMachine(criu)
	if err != nil {
		return nil, err
	}
	h := &Host{Machine: *machine, Paths: map[string]string{}}
	if h.MemoryAvailable, err = readMemoryAvailable(cgroupPath); err != nil {
		return nil, err
	}
	if h.DiskFree, err = readDiskFree(dir); err != nil {
		return nil, err
	}
	if data, err := os.ReadFile("/proc/sys/kernel/pid_max"); err == nil {
		h.PidMax, _ = strconv.Atoi(strings.TrimSpace(string(data)))
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		h.Addresses = append(h.Addresses, a.String())
	}
	for _, p := range m.Mounts {
		h.Paths[p.Source] = kindOf(p.Source)
	}
	return h, nil
}

// kindOf says what a path is: "dir", "file" for everything else that exists, "" for nothing.
func kindOf(path string) string {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return ""
	case st.IsDir():
		return "dir"
	}
	return "file"
}

// readDiskFree returns the bytes that root may still write where dir is or, when it does not exist yet, where it will be.
func readDiskFree(dir string) (int64, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return 0, fmt.Errorf("read free space of %s: %w", dir, err)
	}
	for at := abs; ; at = filepath.Dir(at) {
		var st syscall.Statfs_t
		err := syscall.Statfs(at, &st)
		if err == nil {
			return int64(st.Bfree) * int64(st.Bsize), nil
		}
		if err != syscall.ENOENT || at == "/" {
			return 0, fmt.Errorf("read free space of %s: %w", abs, err)
		}
	}
}

// readMemoryAvailable returns what the kernel thinks can be used without swapping, or what the cgroups above a new one leave
// when that is less.
func readMemoryAvailable(cgroupPath string) (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, fmt.Errorf("read available memory: %w", err)
	}
	available, err := parseMemAvailable(string(data))
	if err != nil {
		return 0, err
	}
	if cgroupPath == "" {
		return available, nil
	}
	for at := filepath.Dir(filepath.Clean("/" + cgroupPath)); ; at = filepath.Dir(at) {
		for _, f := range []struct{ dir, limit, usage string }{
			{"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"},
			{"/sys/fs/cgroup", "memory.max", "memory.current"},
		} {
			limit, lok := readNumber(filepath.Join(f.dir, at, f.limit))
			usage, uok := readNumber(filepath.Join(f.dir, at, f.usage))
			if lok && uok {
				available = min(available, max(limit-usage, 0))
			}
		}
		if at == "/" {
			return available, nil
		}
	}
}

// parseMemAvailable returns MemAvailable of the content of /proc/meminfo, in bytes.
func parseMemAvailable(meminfo string) (int64, error) {
	for line := range strings.Lines(meminfo) {
		rest, ok := strings.CutPrefix(line, "MemAvailable:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read available memory: %w", err)
		}
		return kib << 10, nil
	}
	return 0, fmt.Errorf("read available memory: no MemAvailable in /proc/meminfo")
}

// readNumber reads a file with one number; "max", a missing file and anything else are false.
func readNumber(path string) (int64, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	return n, err == nil
}

// neededControllers returns the cgroup controllers that limits need, by their v1 names, sorted.
func neededControllers(r *specs.LinuxResources) []string {
	var out []string
	for _, n := range []struct {
		name   string
		needed bool
	}{
		{"memory", r.Memory != nil && (value(r.Memory.Limit) > 0 || value(r.Memory.Reservation) > 0 || value(r.Memory.Swap) > 0)},
		{"cpu", r.CPU != nil && (value(r.CPU.Quota) > 0 || r.CPU.Shares != nil && *r.CPU.Shares > 0)},
		{"cpuset", r.CPU != nil && (r.CPU.Cpus != "" || r.CPU.Mems != "")},
		{"pids", r.Pids != nil && value(r.Pids.Limit) > 0},
		{"blkio", r.BlockIO != nil},
		{"hugetlb", len(r.HugepageLimits) > 0},
		{"devices", len(r.Devices) > 0},
		{"rdma", len(r.Rdma) > 0},
	} {
		if n.needed {
			out = append(out, n.name)
		}
	}
	slices.Sort(out)
	return out
}
