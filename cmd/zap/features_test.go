package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// TestFeatures checks the structure that CRI-O and containerd read, which takes both output streams for it.
func TestFeatures(t *testing.T) {
	text := output(t, "features")
	var f features.Features
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if f.OCIVersionMin == "" || f.OCIVersionMax != specs.Version {
		t.Errorf("versions %q to %q", f.OCIVersionMin, f.OCIVersionMax)
	}
	for _, list := range []struct {
		name       string
		got, wants []string
	}{
		{"hooks", f.Hooks, []string{"createContainer", "createRuntime", "poststart", "poststop", "prestart", "startContainer"}},
		{"mount options", f.MountOptions, []string{"bind", "rbind", "ro", "rro", "rnosuid", "rslave", "strictatime", "sync", "unbindable"}},
		{"namespaces", f.Linux.Namespaces, []string{"cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"}},
		{"capabilities", f.Linux.Capabilities, []string{"CAP_CHOWN", "CAP_CHECKPOINT_RESTORE"}},
		{"memory policies", f.Linux.MemoryPolicy.Modes, []string{"MPOL_BIND", "MPOL_INTERLEAVE"}},
		{"memory policy flags", f.Linux.MemoryPolicy.Flags, []string{"MPOL_F_STATIC_NODES"}},
		{"seccomp actions", f.Linux.Seccomp.Actions, []string{"SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_NOTIFY"}},
		{"seccomp operators", f.Linux.Seccomp.Operators, []string{"SCMP_CMP_NE", "SCMP_CMP_MASKED_EQ"}},
		{"seccomp architectures", f.Linux.Seccomp.Archs, []string{"SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_S390X"}},
		{"seccomp flags", f.Linux.Seccomp.KnownFlags, []string{"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"}},
		{"seccomp flags of the kernel", f.Linux.Seccomp.SupportedFlags, []string{"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"}},
		{"unsafe annotations", f.PotentiallyUnsafeConfigAnnotations, []string{"org.criu.config"}},
	} {
		for _, want := range list.wants {
			if !slices.Contains(list.got, want) {
				t.Errorf("%s: no %s in %v", list.name, want, list.got)
			}
		}
	}
	for name, bit := range map[string]*bool{
		"cgroup v1": f.Linux.Cgroup.V1, "cgroup v2": f.Linux.Cgroup.V2, "systemd": f.Linux.Cgroup.Systemd, "seccomp": f.Linux.Seccomp.Enabled,
		"apparmor": f.Linux.Apparmor.Enabled, "selinux": f.Linux.Selinux.Enabled, "idmap": f.Linux.MountExtensions.IDMap.Enabled,
		"intelRdt": f.Linux.IntelRdt.Enabled, "netDevices": f.Linux.NetDevices.Enabled,
	} {
		if bit == nil {
			t.Errorf("nothing is said about %s", name)
		}
	}
}
