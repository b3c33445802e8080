package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zap-migrate/zap/criu"
)

// TestCriuForPodman says when podman would find no CRIU, and where there is one.
func TestCriuForPodman(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	rows := criuForPodman(&criu.Binary{Path: "/opt/criu"})
	if len(rows) != 1 || rows[0].Status != checkWarn || !strings.Contains(rows[0].Hint, "/opt/criu") {
		t.Errorf("without criu in PATH: %+v", rows)
	}
	if err := os.WriteFile(filepath.Join(dir, "criu"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if rows := criuForPodman(&criu.Binary{Path: "/opt/criu"}); len(rows) != 0 {
		t.Errorf("with criu in PATH: %+v", rows)
	}
}
