package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// engineProfile is where podman has its default seccomp profile.
const engineProfile = "/usr/share/containers/seccomp.json"

// EngineProfile is podman's default seccomp profile, as podman would write it into config.json for a container with these capabilities.
func EngineProfile(capabilities []string) (*specs.LinuxSeccomp, error) {
	data, err := os.ReadFile(engineProfile)
	if err != nil {
		return nil, fmt.Errorf("read podman's profile: %w", err)
	}
	type condition struct{ Caps, Arches []string }
	var file struct {
		DefaultAction   specs.LinuxSeccompAction
		DefaultErrnoRet *uint
		ArchMap         []struct {
			Architecture     specs.Arch
			SubArchitectures []specs.Arch
		}
		Syscalls []struct {
			specs.LinuxSyscall
			Includes, Excludes condition
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("read %s: %w", engineProfile, err)
	}
	s := &specs.LinuxSeccomp{DefaultAction: file.DefaultAction, DefaultErrnoRet: file.DefaultErrnoRet}
	native := map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64}[runtime.GOARCH]
	for _, a := range file.ArchMap {
		if a.Architecture == native {
			s.Architectures = append([]specs.Arch{native}, a.SubArchitectures...)
		}
	}
	all := func(wanted []string) bool {
		return !slices.ContainsFunc(wanted, func(name string) bool { return !slices.Contains(capabilities, name) })
	}
	for _, r := range file.Syscalls {
		in, out := r.Includes, r.Excludes
		if (len(in.Arches) == 0 || slices.Contains(in.Arches, runtime.GOARCH)) && all(in.Caps) && (len(out.Caps) == 0 || !all(out.Caps)) {
			s.Syscalls = append(s.Syscalls, r.LinuxSyscall)
		}
	}
	return s, nil
}
