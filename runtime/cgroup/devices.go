package cgroup

import (
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultDevices returns the rules for the devices that the OCI specification gives every container: null, zero, full,
// random, urandom, tty, the pseudo terminals; and making any device node, as that alone gives no access.
func DefaultDevices() []specs.LinuxDeviceCgroup {
	rule := func(major, minor int64, access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: access}
	}
	mknodBlock := rule(-1, -1, "m")
	mknodBlock.Type = "b"
	return []specs.LinuxDeviceCgroup{
		rule(-1, -1, "m"), mknodBlock,
		rule(1, 3, "rwm"), rule(1, 5, "rwm"), rule(1, 7, "rwm"), rule(1, 8, "rwm"), rule(1, 9, "rwm"),
		rule(5, 0, "rwm"), rule(5, 2, "rwm"), rule(136, -1, "rwm"),
	}
}

// withDefaults returns a specification's rules with the default devices behind them. No rules at all stay none: then
// devices are not controlled.
func withDefaults(rules []specs.LinuxDeviceCgroup) []specs.LinuxDeviceCgroup {
	if len(rules) == 0 {
		return nil
	}
	return append(slices.Clip(rules), DefaultDevices()...)
}

// deviceRule formats a rule as devices.allow and devices.deny take it. A missing type means all of them, a missing number
// any, a missing access every access.
func deviceRule(r specs.LinuxDeviceCgroup) string {
	return deviceType(r) + " " + deviceNumber(r.Major) + ":" + deviceNumber(r.Minor) + " " + deviceAccess(r)
}

func deviceType(r specs.LinuxDeviceCgroup) string {
	if r.Type == "" {
		return "a"
	}
	return r.Type
}

func deviceNumber(n *int64) string {
	if n == nil || *n < 0 {
		return "*"
	}
	return strconv.FormatInt(*n, 10)
}

func deviceAccess(r specs.LinuxDeviceCgroup) string {
	if r.Access == "" {
		return "rwm"
	}
	return r.Access
}
