package spec_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/spec"
)

// runcSpec returns what the installed runc writes.
func runcSpec(t *testing.T, args ...string) *specs.Spec {
	t.Helper()
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Skip("needs runc, to compare with what it writes")
	}
	dir := t.TempDir()
	if out, err := exec.Command(runc, append([]string{"spec", "-b", dir}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("runc spec: %v\n%s", err, out)
	}
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	s := new(specs.Spec)
	if err := json.Unmarshal(data, s); err != nil {
		t.Fatal(err)
	}
	return s
}

// modern brings what an older runc writes to what newer ones do: it drops the ambient set, which had no effect without an
// inheritable one, and masks one path more.
func modern(s *specs.Spec) *specs.Spec {
	s.Version = specs.Version
	s.Process.Capabilities.Ambient = nil
	if tpm := "/sys/devices/virtual/tpm"; !slices.Contains(s.Linux.MaskedPaths, tpm) {
		s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, tpm)
	}
	return s
}

// throughJSON is what a reader of the written file gets.
func throughJSON(t *testing.T, s *specs.Spec) *specs.Spec {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	out := new(specs.Spec)
	if err := json.Unmarshal(data, out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestDefaultIsWhatRuncWrites(t *testing.T) {
	want := modern(runcSpec(t))
	if diff := cmp.Diff(want, throughJSON(t, spec.Default())); diff != "" {
		t.Errorf("runc's (-) and ours (+) differ:\n%s", diff)
	}
}

func TestRootlessIsWhatRuncWrites(t *testing.T) {
	want := modern(runcSpec(t, "--rootless"))
	got := spec.Default()
	spec.ToRootless(got)
	if diff := cmp.Diff(want, throughJSON(t, got)); diff != "" {
		t.Errorf("runc's (-) and ours (+) differ:\n%s", diff)
	}
}

func TestDefaultsAreValid(t *testing.T) {
	if err := spec.Validate(spec.Default()); err != nil {
		t.Errorf("Default: %v", err)
	}
	rootless := spec.Default()
	spec.ToRootless(rootless)
	if err := spec.Validate(rootless); err != nil {
		t.Errorf("ToRootless: %v", err)
	}
}

func TestDefaultSharesNothing(t *testing.T) {
	a := spec.Default()
	a.Process.Capabilities.Bounding[0] = "CAP_SYS_ADMIN"
	a.Mounts[1].Options[0] = "suid"
	a.Linux.MaskedPaths[0] = "/"
	if err := cmp.Diff(spec.Default(), a); err == "" {
		t.Fatal("the change did not take")
	}
	b := spec.Default()
	if b.Process.Capabilities.Effective[0] != "CAP_AUDIT_WRITE" || b.Mounts[1].Options[0] != "nosuid" || b.Linux.MaskedPaths[0] == "/" {
		t.Error("a change to one default specification reached another")
	}
}

func TestCapabilityNumbers(t *testing.T) {
	for name, want := range map[string]int{
		"CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_AUDIT_WRITE": 29,
		"CAP_SYSLOG": 34, "CAP_CHECKPOINT_RESTORE": 40,
	} {
		got, ok := spec.CapabilityNumber(name)
		if !ok || got != want {
			t.Errorf("CapabilityNumber(%s) = %d, %v, want %d", name, got, ok, want)
		}
		if back, ok := spec.CapabilityName(want); !ok || back != name {
			t.Errorf("CapabilityName(%d) = %q, %v", want, back, ok)
		}
	}
	for _, name := range []string{"", "CHOWN", "cap_chown", "CAP_EVERYTHING"} {
		if _, ok := spec.CapabilityNumber(name); ok {
			t.Errorf("CapabilityNumber(%q) knows it", name)
		}
	}
	for _, n := range []int{-1, 41, 64} {
		if _, ok := spec.CapabilityName(n); ok {
			t.Errorf("CapabilityName(%d) knows it", n)
		}
	}
}
