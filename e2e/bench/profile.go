package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// engineFile is the seccomp profile of podman and its kin, of Debian's package golang-github-containers-common.
const engineFile = "/usr/share/containers/seccomp.json"

// engineProfile reads that profile as an engine does for a container with the capabilities of `runc spec` on this machine: entries that are for
// other machines or other capabilities are left out.
func engineProfile() (*specs.LinuxSeccomp, error) {
	type condition struct {
		Arches []string `json:"arches"`
		Caps   []string `json:"caps"`
	}
	var file struct {
		DefaultAction   specs.LinuxSeccompAction `json:"defaultAction"`
		DefaultErrnoRet *uint                    `json:"defaultErrnoRet"`
		ArchMap         []struct {
			Architecture     specs.Arch   `json:"architecture"`
			SubArchitectures []specs.Arch `json:"subArchitectures"`
		} `json:"archMap"`
		Syscalls []struct {
			specs.LinuxSyscall
			Includes condition `json:"includes"`
			Excludes condition `json:"excludes"`
		} `json:"syscalls"`
	}
	data, err := os.ReadFile(engineFile)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("read %s: %w", engineFile, err)
	}
	profile := &specs.LinuxSeccomp{DefaultAction: file.DefaultAction, DefaultErrnoRet: file.DefaultErrnoRet}
	for _, m := range file.ArchMap {
		if m.Architecture == specs.ArchX86_64 {
			profile.Architectures = append([]specs.Arch{m.Architecture}, m.SubArchitectures...)
		}
	}
	for _, s := range file.Syscalls {
		if len(s.Includes.Caps) > 0 || len(s.Includes.Arches) > 0 && !slices.Contains(s.Includes.Arches, "amd64") ||
			slices.Contains(s.Excludes.Arches, "amd64") {
			continue
		}
		profile.Syscalls = append(profile.Syscalls, s.LinuxSyscall)
	}
	return profile, nil
}
