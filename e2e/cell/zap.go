package cell

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// ZapVariable is the environment variable that names the zap under test.
const ZapVariable = "ZAP_BIN"

// FindZap sets ZapVariable for all stages of a cell. When the environment names no zap, neither so nor as ZAP, it builds one in the
// directory that it returns; the caller removes that.
func FindZap() (built string, err error) {
	if path := cmp.Or(os.Getenv(ZapVariable), os.Getenv("ZAP")); path != "" {
		return "", os.Setenv(ZapVariable, path)
	}
	if built, err = os.MkdirTemp("", "zap-cell-"); err != nil {
		return "", err
	}
	path := filepath.Join(built, "zap")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "../../cmd/zap")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return built, fmt.Errorf("build zap: %w: %s", err, out)
	}
	return built, os.Setenv(ZapVariable, path)
}
