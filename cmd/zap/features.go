package main

import (
	"encoding/json"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/boot"
	"github.com/zap-migrate/zap/runtime/seccomp"
	"github.com/zap-migrate/zap/spec"
)

func newFeaturesCommand(*globals) *cobra.Command {
	return &cobra.Command{
		Use:   "features",
		Short: "Print what this runtime can do as JSON",
		Long: `Print what this runtime can do as JSON: the features structure of the OCI runtime specification (features.md).

It says what zap knows, not what this host has; zap check says that.`,
		Example: "zap features | jq .mountOptions",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := json.NewEncoder(cmd.OutOrStdout())
			out.SetIndent("", "    ")
			return out.Encode(known())
		},
	}
}

// Annotations of the features structure. The first and the third are runc's, which other runtimes may use: for the version of runc whose
// command line this is, and to say that there is a checkpoint.
const (
	annotationRunc       = "org.opencontainers.runc.version"
	annotationVersion    = "io.github.zap-migrate.version"
	annotationCommit     = "io.github.zap-migrate.commit"
	annotationCheckpoint = "org.opencontainers.runc.checkpoint.enabled"

	likeRunc = "1.5.1"
)

// known is the features structure.
func known() *features.Features {
	yes, no := true, false
	modes, flags := boot.MemoryPolicies()
	f := &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
		MountOptions:  boot.MountOptions(),
		Annotations:   map[string]string{annotationVersion: version, annotationCommit: commit, annotationRunc: likeRunc},
		Linux: &features.Linux{
			Namespaces:   texts(boot.Namespaces()),
			Capabilities: spec.Capabilities(),
			Cgroup:       &features.Cgroup{V1: &yes, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &yes},
			Seccomp: &features.Seccomp{
				Enabled: &yes, Actions: seccomp.Actions(), Operators: seccomp.Operators(), Archs: seccomp.Archs(),
				KnownFlags: seccomp.Flags(), SupportedFlags: seccomp.SupportedFlags(),
			},
			Apparmor:     &features.Apparmor{Enabled: &yes}, // by zap, if not by this host
			Selinux:      &features.Selinux{Enabled: &yes},
			MemoryPolicy: &features.MemoryPolicy{Modes: texts(modes), Flags: texts(flags)},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: compiles(func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{
					Destination: "/mnt", Type: "bind", Source: "/mnt", Options: []string{"bind", "idmap"}, UIDMappings: oneID, GIDMappings: oneID,
				})
			})}},
			IntelRdt:   &features.IntelRdt{Enabled: &yes, Schemata: &yes, Monitoring: &yes},
			NetDevices: &features.NetDevices{Enabled: &yes},
		},
		// What CRIU is told has effects outside of the container: engines let only whom they trust set this.
		PotentiallyUnsafeConfigAnnotations: []string{"org.criu.config"},
	}
	if canCheckpoint {
		f.Annotations[annotationCheckpoint] = "true"
	}
	return f
}

// canCheckpoint says whether there is a verb for it.
var canCheckpoint bool

func init() {
	canCheckpoint = slices.ContainsFunc(verbs, func(v verb) bool { return v.name == "checkpoint" })
}

var oneID = []specs.LinuxIDMapping{{HostID: 1000, Size: 1}}

// compiles asks the compiler itself whether it takes a specification with a change, so that the answer can't be out of date.
func compiles(change func(*specs.Spec)) *bool {
	s := spec.Default()
	change(s)
	facts := runtime.Facts("features", &spec.Bundle{Dir: "/", Spec: s}, nil)
	_, err := boot.Compile(s, facts)
	ok := err == nil
	return &ok
}

// texts turns named strings into strings.
func texts[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}
