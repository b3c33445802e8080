package runtime

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/runtime/boot"
)

// The stages of a start as the log has them with --debug. They have the names that runc's log gives to the same moments, which people and
// programs that follow such logs know.
const (
	stageSetup    = "nsexec container setup"                      // the child begins with its namespaces
	stageInit     = "child process in init()"                     // and is in them: everything is prepared
	stageRuns     = "init: closing the pipe to signal completion" // the container's program is executed
	stageExecRuns = "setns_init: about to exec"                   // another process's program is
)

// begun logs that a child has begun its program.
func (r *Runtime) begun(id string, p *boot.Program, pid int) {
	r.log.Debug(stageSetup, "container", id, "pid", pid, "operations", len(p.Ops))
}

// bound logs the CPUs that a process starts on, as a mask.
func (r *Runtime) bound(id string, p *specs.Process) {
	if p.ExecCPUAffinity == nil || p.ExecCPUAffinity.Initial == "" {
		return
	}
	if mask, err := boot.CPUMask(p.ExecCPUAffinity.Initial); err == nil {
		r.log.Debug("nsexec: affinity: "+mask, "container", id)
	}
}
