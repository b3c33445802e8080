package criu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zap-migrate/zap/criu/criutest"
)

func TestMinVersion(t *testing.T) {
	for release, want := range map[string]int{
		"6.18.44": 40200, "6.16.0-rc1": 40200, "7.0": 40200, "10.1.2": 40200,
		"6.15.9": 40100, "6.13-foo": 40100,
		"6.12.1": 31900, "5.10.0-28-amd64": 31900,
		"": 40200, "next": 40200,
	} {
		if got := MinVersion(release); got != want {
			t.Errorf("Linux %q needs %d, want %d", release, got, want)
		}
	}
}

func TestParseVersion(t *testing.T) {
	for out, want := range map[string]int{
		"Version: 4.2.1\n":                    40201,
		"Version: 4.2\nGitID: v4.2-17-gabc\n": 40200,
		"Warn (x): y\nVersion: 3.17.1\n":      31701,
		"Version: 4.3-dev\n":                  40300,
		"Version: 4.10.2\n":                   41002,
	} {
		if got, err := parseVersion(out); got != want || err != nil {
			t.Errorf("%q is %d, %v, want %d", out, got, err, want)
		}
	}
	for _, out := range []string{"", "Version:", "Version: x.y", "criu 4.2", "Version: 4.200"} {
		if v, err := parseVersion(out); err == nil {
			t.Errorf("%q is version %d, want an error", out, v)
		}
	}
	for v, want := range map[int]string{40201: "4.2.1", 40200: "4.2", 31701: "3.17.1"} {
		if got := formatVersion(v); got != want {
			t.Errorf("version %d prints as %q, want %q", v, got, want)
		}
	}
}

func TestFindByVariable(t *testing.T) {
	stand := criutest.New(t, criutest.Script{})
	t.Setenv(EnvBinary, stand.Path)
	b, err := Find(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if b.Path != stand.Path || b.Source != "ZAP_CRIU" || b.Version != criutest.Version || len(b.SHA256) != 64 {
		t.Errorf("found %+v", b)
	}
}

func TestFindSaysWhatToDo(t *testing.T) {
	old := filepath.Join(t.TempDir(), "criu")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho Version: 3.1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, part := range map[string]string{old: "is 3.1", filepath.Join(t.TempDir(), "none"): "no such file"} {
		t.Setenv(EnvBinary, path)
		_, err := Find(t.Context(), "")
		if err == nil || !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), "make deps") {
			t.Errorf("CRIU at %s: error %v, want one with %q and what to do", path, err, part)
		}
	}
}

// TestCandidatesOfPoorEnvironment: engines call runtimes with a PATH that may lack the directories of the system's programs.
func TestCandidatesOfPoorEnvironment(t *testing.T) {
	t.Setenv(EnvBinary, "")
	t.Setenv("PATH", "/none")
	list := candidates()
	if last := list[len(list)-1]; last.path != "/usr/sbin/criu" {
		t.Errorf("the last place to look at is %s", last.path)
	}
}
