package runtime

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/zap-migrate/zap/runtime/boot"
	"github.com/zap-migrate/zap/spec"
)

// DryRun returns the program that Create, or Run when the container is to run at once, would start for a bundle, after the checks that they
// make. It makes and changes nothing. Joining the cgroup is left out: which calls that takes depends on the cgroup that is made.
func (r *Runtime) DryRun(id string, b *spec.Bundle, o CreateOptions, run bool) (*boot.Program, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	c := &creation{runtime: r, id: id, bundle: b, options: o, dir: r.Dir(id)}
	if _, err := os.Lstat(filepath.Join(c.dir, stateName)); err == nil {
		return nil, fmt.Errorf("create container %s: %w", id, ErrExist)
	}
	gate := boot.GateSocket
	if run {
		gate = boot.GateWord
	}
	program, _, err := c.compile(gate)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", id, err)
	}
	return program, nil
}
