package boot

import (
	"fmt"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// capabilityNames are the capabilities by number, capabilities(7).
var capabilityNames = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
	"NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
	"SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
	"AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
	"PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// capabilitySets are the five sets of a process as bit masks.
type capabilitySets struct {
	bounding, effective, permitted, inheritable, ambient uint64
}

// parseCapabilities turns names into masks; no capabilities at all is the meaning of nil.
// Names that are unknown are left out: whoever compiles has warned about them.
func parseCapabilities(c *specs.LinuxCapabilities) (s capabilitySets) {
	if c == nil {
		return s
	}
	for _, set := range []struct {
		mask  *uint64
		names []string
	}{
		{&s.bounding, c.Bounding},
		{&s.effective, c.Effective},
		{&s.permitted, c.Permitted},
		{&s.inheritable, c.Inheritable},
		{&s.ambient, c.Ambient},
	} {
		for _, n := range set.names {
			*set.mask |= capabilityBit(n)
		}
	}
	return s
}

// AllCapabilities returns sets that leave a process everything it may have.
func AllCapabilities() *specs.LinuxCapabilities {
	all := make([]string, len(capabilityNames))
	for i, n := range capabilityNames {
		all[i] = "CAP_" + n
	}
	return &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
}

// limit leaves out of the sets what the runtime does not hold itself and so can't give: without it capset would set nothing.
func (s *capabilitySets) limit(held uint64) {
	for _, set := range []*uint64{&s.effective, &s.permitted, &s.inheritable, &s.ambient} {
		*set &= held
	}
}

// capabilityBit is the mask of a capability, 0 for a name that is unknown.
func capabilityBit(name string) uint64 {
	for i, n := range capabilityNames {
		if len(name) == len(n)+4 && name[:4] == "CAP_" && name[4:] == n {
			return 1 << i
		}
	}
	return 0
}

// showCapabilities lists the names in a mask.
func showCapabilities(mask uint64) string {
	var out []string
	for i, n := range capabilityNames {
		if mask&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	if len(out) == 0 {
		return "0"
	}
	if len(out) == len(capabilityNames) {
		return "all"
	}
	return strings.Join(out, "|")
}

// bounding drops what is not in the bounding set. Beyond the last capability that the kernel knows it answers EINVAL.
func (c *compiler) bounding(keep uint64) {
	for i := range len(capabilityNames) + 4 {
		if keep&(1<<i) == 0 {
			c.on("drop capability "+capabilityName(uintptr(i)), "process.capabilities.bounding")
			c.do(unix.SYS_PRCTL, symbol(unix.PR_CAPBSET_DROP, namesPrctl), symbol(i, namesCapability), number(0), number(0), number(0)).
				ignore(unix.EINVAL)
		}
	}
}

// capabilityName is the name of a capability by its number.
func capabilityName(n uintptr) string {
	if n < uintptr(len(capabilityNames)) {
		return "CAP_" + capabilityNames[n]
	}
	return fmt.Sprint(n)
}

// capabilityData is the argument of capset(2), version 3.
type capabilityData struct {
	low, high unix.CapUserData
}

// capabilities sets the rest of the sets.
func (c *compiler) capabilities(s capabilitySets) {
	c.on("set capabilities", "process.capabilities")
	header := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &capabilityData{
		low: unix.CapUserData{Effective: uint32(s.effective), Permitted: uint32(s.permitted), Inheritable: uint32(s.inheritable)},
		high: unix.CapUserData{
			Effective: uint32(s.effective >> 32), Permitted: uint32(s.permitted >> 32), Inheritable: uint32(s.inheritable >> 32),
		},
	}
	c.do(unix.SYS_CAPSET, memory(header, showVersion), memory(data, showData))
	c.on("set ambient capabilities", "process.capabilities.ambient")
	c.do(unix.SYS_PRCTL, symbol(unix.PR_CAP_AMBIENT, namesPrctl), symbol(unix.PR_CAP_AMBIENT_CLEAR_ALL, namesAmbient),
		number(0), number(0), number(0))
	for i, n := range capabilityNames {
		if s.ambient&(1<<i) != 0 {
			c.on("raise ambient capability CAP_"+n, "process.capabilities.ambient")
			c.do(unix.SYS_PRCTL, symbol(unix.PR_CAP_AMBIENT, namesPrctl), symbol(unix.PR_CAP_AMBIENT_RAISE, namesAmbient),
				symbol(i, namesCapability), number(0), number(0))
		}
	}
}

func showVersion(unsafe.Pointer) string { return "{version=3}" }

func showData(p unsafe.Pointer) string {
	d := (*capabilityData)(p)
	join := func(high, low uint32) string { return showCapabilities(uint64(high)<<32 | uint64(low)) }
	return fmt.Sprintf("{effective=%s, permitted=%s, inheritable=%s}", join(d.high.Effective, d.low.Effective),
		join(d.high.Permitted, d.low.Permitted), join(d.high.Inheritable, d.low.Inheritable))
}
