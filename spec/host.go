package spec

import "syscall"

// cgroup2Magic is the file system type of cgroup v2 in linux/magic.h.
const cgroup2Magic = 0x63677270

// hasOnlyCgroup2 says whether the host has the unified cgroup hierarchy and no other.
func hasOnlyCgroup2() bool {
	var st syscall.Statfs_t
	return syscall.Statfs("/sys/fs/cgroup", &st) == nil && int64(st.Type) == cgroup2Magic
}
