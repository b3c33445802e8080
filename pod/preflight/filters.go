package preflight

import (
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/runtime/seccomp"
	"github.com/zap-migrate/zap/spec"
)

// judgeFilters reports what stands in the way of seccomp filters, which CRIU saves and restores by itself: it has to run without one of its
// own then. Where zap lacks CAP_SYS_RESOURCE it is by such a filter that CRIU gets at the limits of processes of other users.
func (s *scan) judgeFilters() {
	if !criu.LacksLimits() {
		return
	}
	filtered := ""
	for _, p := range s.procs {
		if p.filtered && filtered == "" {
			filtered = p.String()
		}
	}
	if filtered == "" {
		return
	}
	own, group := os.Getuid(), os.Getgid()
	for _, p := range s.procs {
		if p.zombie() || p.ownedBy(own, group) {
			continue
		}
		s.add(finding{
			code: BlockLimits, process: p, fd: -1,
			detail: "it belongs to another user, " + filtered + " has a seccomp filter, and root lacks CAP_SYS_RESOURCE here: CRIU can't read its limits",
			hint:   "give zap CAP_SYS_RESOURCE on this host, or run the pod without a seccomp filter or without other users",
		})
	}
}

// Supervised returns the reason why a container can't move whose seccomp profile hands system calls to a supervisor outside of it: CRIU
// saves the filter but not the supervisor's descriptor, and what the filter hands over would end in ENOSYS.
func Supervised(name string, profile *specs.LinuxSeccomp) []spec.Blocker {
	if !seccomp.Notifies(profile) {
		return nil
	}
	return []spec.Blocker{{
		Code: BlockSeccomp, Subject: name, Detail: "a supervisor outside answers system calls of it (SCMP_ACT_NOTIFY), and CRIU can't save that",
		Hint: "run it with a profile that does not notify",
	}}
}
