package cgroup

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
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
	return strings.ReplaceAll(r.Access, "a", "") // which stands for the type in some specifications, and means nothing
}

// applyDeviceLists writes the device rules in their order, each file opened once, and lets the devices through that every
// container has.
func (c *Cgroup) applyDeviceLists(rules []specs.LinuxDeviceCgroup) error {
	h := c.tree("devices")
	if h == nil {
		return fieldError("devices", "devices", notMounted("devices"))
	}
	deny, err := open(c.dir(h)+"/devices.deny", unix.O_WRONLY)
	if err != nil {
		return fieldError("devices", "devices", err)
	}
	defer unix.Close(deny)
	allow, err := open(c.dir(h)+"/devices.allow", unix.O_WRONLY)
	if err != nil {
		return fieldError("devices", "devices", err)
	}
	defer unix.Close(allow)
	given := len(rules)
	for i, r := range withDefaults(rules) {
		fd, word := deny, "deny"
		if r.Allow {
			fd, word = allow, "allow"
		}
		if _, err := unix.Write(fd, []byte(deviceRule(r))); err != nil {
			field := "devices"
			if i < given {
				field = fmt.Sprintf("devices[%d]", i)
			}
			return fieldError("devices", field, fmt.Errorf("%s %q: %w", word, deviceRule(r), err))
		}
	}
	return nil
}
