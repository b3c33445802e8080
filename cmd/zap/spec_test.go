package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zap-migrate/zap/spec"
)

func TestSpecWritesABundle(t *testing.T) {
	for _, args := range [][]string{nil, {"--rootless"}} {
		dir := t.TempDir()
		cmd := newSpecCommand(nil)
		cmd.SetArgs(append([]string{"-b", dir}, args...))
		if err := cmd.Execute(); err != nil {
			t.Fatal(err)
		}
		b, err := spec.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		if mapped := len(b.Spec.Linux.UIDMappings) > 0; mapped != (args != nil) {
			t.Errorf("%v: user ids are mapped: %v", args, mapped)
		}
	}
}

func TestSpecKeepsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := newSpecCommand(nil)
	cmd.SetArgs([]string{"--bundle", dir})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "remove it first") {
		t.Errorf("says %v", err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "mine" {
		t.Errorf("is %q now, %v", data, err)
	}
}
