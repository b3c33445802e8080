package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPruneCaches wants what CRIU found out in another boot to go, and nothing else in its cache.
func TestPruneCaches(t *testing.T) {
	root := t.TempDir()
	dir := criuCache(root)
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	now := "criu.kdat-" + strings.TrimSpace(string(id)) + "-0123"
	stale := []string{"criu.kdat-1b4e28ba-2fa1-11d2-883f-0016d3cca427-0123", "criu.kdat-1b4e28ba-2fa1-11d2-883f-0016d3cca427-0123.tried"}
	kept := []string{now, now + ".tried", "criu-0123.json", "other"}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range append(stale, kept...) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("12345"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i, tt := range []struct {
		args []string
		want int
	}{{[]string{"--dry-run"}, 2}, {nil, 2}, {nil, 0}} {
		var out bytes.Buffer
		cmd := newRootCommand(new(globals), append([]string{"--root", root, "prune", "--format", "json"}, tt.args...))
		cmd.SetOut(&out)
		if err := cmd.Execute(); err != nil {
			t.Fatal(err)
		}
		var r pruneResult
		if err := json.Unmarshal(out.Bytes(), &r); err != nil || len(r.Removed) != tt.want || r.Freed != int64(5*tt.want) || r.DryRun != (i == 0) {
			t.Errorf("%d: %s, %v", i, out.String(), err)
		}
	}
	for _, name := range kept {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range stale {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is there still", name)
		}
	}
}
