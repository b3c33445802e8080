package engines

import (
	"os"
	"testing"

	"github.com/zap-migrate/zap/e2e/cell"
)

func TestMain(m *testing.M) {
	var built string
	code := cell.Cell{
		Prepare: func() (err error) { built, err = cell.FindZap(); return err },
		Empty: []string{
			"/run", "/run/lock", "/dev/shm", "/var/tmp", "/var/lib/containers", "/var/lib/containerd", "/var/lib/zap", "/etc/cni/net.d",
		},
		Copies: []string{"/etc", "/var/lib", "/usr/local"},
		Zap:    cell.ZapVariable,
		Shared: true,
	}.Run(m)
	if built != "" {
		os.RemoveAll(built)
	}
	os.Exit(code)
}
