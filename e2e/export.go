package e2e

import (
	"context"
	"os/exec"
)

// The demonstration and the benchmark are programs of their own that use the laboratory. Once Adopt was called this process
// reaps whatever dies below it, so they start their processes here as well.

// Run runs a command to its end or the context's.
func Run(ctx context.Context, cmd *exec.Cmd) Result { return execute(ctx, cmd) }

// Start starts a command that Wait waits for.
func Start(cmd *exec.Cmd) error { return processes.start(cmd) }

// Wait is cmd.Wait for a command that Start started.
func Wait(cmd *exec.Cmd) error { return processes.wait(cmd) }

// Descendants is every process below this one, those that it has adopted included.
func Descendants() ([]Process, error) { return descendants() }

// Command prepares a command in the namespace.
func (n NetNS) Command(ctx context.Context, argv ...string) *exec.Cmd { return enter(ctx, n, argv...) }

// Samples is a copy of what the client has measured so far.
func (c *Counter) Samples() []Sample {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Sample(nil), c.samples...)
}

// logFlags are the flags of zap's log.
func (h *Host) logFlags() []string {
	if h.Quiet {
		return nil
	}
	return []string{"--debug"}
}
