package spec

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// capabilities are the names of all capabilities by their number in linux/capability.h.
var capabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// CapabilityNumber returns the number that the kernel gives to a capability (CAP_CHOWN is 0), or false for a name that is
// not exactly one of linux/capability.h.
func CapabilityNumber(name string) (int, bool) {
	i := slices.Index(capabilities, name)
	return i, i >= 0
}

// CapabilityName returns the name of capability n, or false when n is none that zap knows.
func CapabilityName(n int) (string, bool) {
	if n < 0 || n >= len(capabilities) {
		return "", false
	}
	return capabilities[n], true
}

// DefaultCapabilities returns the capabilities that a process has in the default specification.
func DefaultCapabilities() []string {
	return []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
}

// UnknownCapabilities returns the names in the five sets that zap does not know, each once and sorted: a runtime has to warn about them
// and to go on without (OCI runtime specification, config.md, Linux process).
func UnknownCapabilities(c *specs.LinuxCapabilities) []string {
	if c == nil {
		return nil
	}
	var out []string
	for _, set := range [][]string{c.Bounding, c.Effective, c.Inheritable, c.Permitted, c.Ambient} {
		for _, name := range set {
			if _, known := CapabilityNumber(name); !known {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Capabilities returns the names of all capabilities that zap knows, by their number.
func Capabilities() []string { return slices.Clone(capabilities) }
