package runtime

import (
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// modules says whether the host has the security modules that a process and its container ask for. Nothing is looked at for those that
// ask for none.
func modules(p *specs.Process, l *specs.Linux) (appArmor, seLinux bool) {
	if p != nil && p.ApparmorProfile != "" {
		enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
		appArmor = err == nil && len(enabled) > 0 && enabled[0] == 'Y'
	}
	if p != nil && p.SelinuxLabel != "" || l != nil && l.MountLabel != "" {
		_, err := os.Stat("/sys/fs/selinux/enforce")
		seLinux = err == nil
	}
	return appArmor, seLinux
}
