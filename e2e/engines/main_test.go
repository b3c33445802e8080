package engines

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/zap-migrate/zap/e2e/cell"
)

// zapVariable names the zap under test for all stages of the cell.
const zapVariable = "ZAP_BIN"

func TestMain(m *testing.M) {
	var built string
	code := cell.Cell{
		Prepare: func() (err error) { built, err = findZap(); return err },
		Empty: []string{
			"/run", "/run/lock", "/dev/shm", "/var/tmp", "/var/lib/containers", "/var/lib/containerd", "/var/lib/zap", "/etc/cni/net.d",
		},
		Copies: []string{"/etc", "/var/lib", "/usr/local"},
		Zap:    zapVariable,
	}.Run(m)
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}

// findZap sets the variable, to a binary that it builds in the directory built when the environment names none.
func findZap() (built string, err error) {
	if path := cmp.Or(os.Getenv(zapVariable), os.Getenv("ZAP")); path != "" {
		return "", os.Setenv(zapVariable, path)
	}
	if built, err = os.MkdirTemp("", "zap-engines-"); err != nil {
		return "", err
	}
	path := filepath.Join(built, "zap")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "../../cmd/zap")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return built, fmt.Errorf("build zap: %w: %s", err, out)
	}
	return built, os.Setenv(zapVariable, path)
}
