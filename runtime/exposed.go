package runtime

import (
	"strings"

	"github.com/zap-migrate/zap/runtime/boot"
)

// exposed lists the mounts of all of a proc or sysfs and those that are on the way to them, in the order of the mounts.
func exposed(mounts []mountInfo) []boot.HostMount {
	full := func(m *mountInfo) bool { return m.root == "/" && (m.fstype == "proc" || m.fstype == "sysfs") }
	var list []boot.HostMount
	for i := range mounts {
		m := &mounts[i]
		if m.target == "/" {
			continue
		}
		wanted := full(m)
		for j := 0; j < len(mounts) && !wanted; j++ {
			at := mounts[j].target
			wanted = full(&mounts[j]) && (at == m.target || strings.HasPrefix(at, m.target+"/"))
		}
		if wanted {
			list = append(list, boot.HostMount{Place: m.target, Full: full(m)})
		}
	}
	return list
}
