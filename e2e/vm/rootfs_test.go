package vm

import (
	"testing"

	"github.com/zap-migrate/zap/e2e"
)

// patience is how long the two sides of a move may be silent: in emulation, on a busy machine, seconds mean nothing.
const patience = "60s"

// rootfsIn copies a root file system that this machine's programs made up into the guest.
func rootfsIn(m *Machine, dir, name string) string {
	m.t.Helper()
	to := "/data/rootfs/" + name
	m.Copy(dir, to)
	return to
}

// tellerRootfs has the teller.
func tellerRootfs(t *testing.T) string {
	return e2e.ProgramRootfs(t, "teller", e2e.Build(t, "teller", "github.com/zap-migrate/zap/e2e/vm/testdata/teller"))
}
