package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Actions returns the names of all actions that a profile can have.
func Actions() []string {
	out := make([]string, len(actions))
	for i, a := range actions {
		out[i] = string(a.name)
	}
	return out
}

// Operators returns the names of all comparisons of arguments.
func Operators() []string {
	return texts(specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual)
}

// Archs returns the names of all architectures of the specification. Those that the machine does not have are legal in a profile and mean
// nothing on it.
func Archs() []string {
	return texts(
		specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64, specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32,
		specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390,
		specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB,
	)
}

// Flags returns the names of all flags that a profile can have.
func Flags() []string {
	return texts(flagTsync, specs.LinuxSeccompFlagSpecAllow, specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagWaitKillableRecv)
}

// SupportedFlags returns those that the kernel has. It asks with a filter that is none: a kernel that knows the flag finds that out.
func SupportedFlags() []string {
	var out []string
	for _, name := range Flags() {
		mask, err := parseFlags([]specs.LinuxSeccompFlag{specs.LinuxSeccompFlag(name)})
		if err != nil {
			continue
		}
		if mask == unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV { // which is about listeners
			mask |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(mask), 0); errno == unix.EFAULT {
			out = append(out, name)
		}
	}
	return out
}

func texts[T ~string](in ...T) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}
