package boot

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// specOptions are the mount options of the OCI runtime specification (config.md, Linux mount options).
var specOptions = []string{
	"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "idmap", "iversion", "lazytime", "loud", "mand", "noatime",
	"nodev", "nodiratime", "noexec", "noiversion", "nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private",
	"ratime", "rbind", "rdev", "rdiratime", "relatime", "remount", "rexec", "ridmap", "rnoatime", "rnodev", "rnodiratime", "rnoexec",
	"rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro", "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave",
	"rstrictatime", "rsuid", "rsymfollow", "runbindable", "rw", "shared", "silent", "slave", "strictatime", "suid", "symfollow", "sync",
	"tmpcopyup", "unbindable",
}

// everyFileSystem are options that are handed to the file system's own parser, where the kernel takes them for every file system.
var everyFileSystem = []string{"dirsync", "lazytime", "mand", "nolazytime", "nomand", "sync"}

// MountOptions returns the mount options of the OCI runtime specification that Compile knows, sorted. Others are left to the file system.
func MountOptions() []string {
	var known []string
	for _, o := range specOptions {
		if slices.Contains(everyFileSystem, o) || !slices.Contains(parseOptions([]string{o}).data, o) {
			known = append(known, o)
		}
	}
	return known
}

// Namespaces returns the types of namespaces that Compile knows, sorted.
func Namespaces() []specs.LinuxNamespaceType {
	var known []specs.LinuxNamespaceType
	for _, n := range namespaceFlags {
		known = append(known, n.kind)
	}
	slices.Sort(known)
	return known
}

// MemoryPolicies returns the modes and flags of linux.memoryPolicy that Compile knows (set_mempolicy(2)).
func MemoryPolicies() (modes []specs.MemoryPolicyModeType, flags []specs.MemoryPolicyFlagType) {
	return slices.Clone(memoryModes), slices.Clone(memoryFlags)
}

// CPUMask returns the bit mask of a list such as 0-3,8 (cpuset(7), list format) as a hexadecimal number: 0x10f.
func CPUMask(list string) (string, error) {
	words, err := parseSet(list)
	if err != nil {
		return "", err
	}
	var digits strings.Builder
	for i := len(words) - 1; i >= 0; i-- {
		fmt.Fprintf(&digits, "%016x", words[i])
	}
	return "0x" + strings.TrimLeft(digits.String(), "0"), nil // a list has at least one member
}
