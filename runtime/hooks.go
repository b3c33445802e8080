package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hookError is a hook that failed. Its text begins as that of runc does, which callers look for.
type hookError struct {
	kind   string // createRuntime, …
	index  int
	cause  error
	output string // what the hook wrote
}

func (e *hookError) Error() string {
	text := fmt.Sprintf("error running %s hook #%d: %v", e.kind, e.index, e.cause)
	if e.output != "" {
		text += ": " + e.output
	}
	return fmt.Sprintf("%s (config.json: hooks.%s[%d])", text, e.kind, e.index)
}

func (e *hookError) Unwrap() error { return e.cause }

// errHookTimeout is the cause when a hook was killed because it took longer than it may.
var errHookTimeout = errors.New("killed at its timeout")

// hasCreateHooks says whether hooks have to run between the container's mounts and its pivot_root.
func (c *creation) hasCreateHooks() bool {
	h := c.bundle.Spec.Hooks
	//lint:ignore SA1019 prestart is deprecated and in use
	return h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0
}

// hasStartHooks says whether hooks have to run in the container before its program.
func hasStartHooks(s *specs.Spec) bool { return s.Hooks != nil && len(s.Hooks.StartContainer) > 0 }

// createHooks runs the hooks of a container that is being made: the first two kinds beside it, the third inside.
func (c *creation) createHooks() error {
	if err := c.runtimeHooks(); err != nil {
		return err
	}
	if !c.hasCreateHooks() {
		return nil
	}
	return c.container().insideHooks(c.ctx, "createContainer", c.bundle.Spec.Hooks.CreateContainer, specs.StateCreating)
}

// runtimeHooks runs the hooks beside a container that is being made or restored.
func (c *creation) runtimeHooks() error {
	if !c.hasCreateHooks() {
		return nil
	}
	h, state := c.bundle.Spec.Hooks, c.container().hookState(specs.StateCreating)
	// The specification's steps have these after the one in which a container is "creating"; runtime-tools wants to read so.
	early := c.container().hookState(specs.StateCreated)
	//lint:ignore SA1019 prestart is deprecated and in use
	if err := runHooks(c.ctx, "prestart", h.Prestart, early, runHook); err != nil {
		return err
	}
	return runHooks(c.ctx, "createRuntime", h.CreateRuntime, state, runHook)
}

// startHooks runs the hooks that come right before the program, as the program's user and with its environment.
func (c *Container) startHooks(ctx context.Context) error {
	if !hasStartHooks(c.state.Bundle.Spec) {
		return nil
	}
	return c.insideHooks(ctx, "startContainer", c.state.Bundle.Spec.Hooks.StartContainer, specs.StateCreated)
}

// poststart runs the hooks after the start. When one fails the container is killed and what it was started for is called off.
func (c *Container) poststart(ctx context.Context) error {
	h := c.state.Bundle.Spec.Hooks
	if h == nil || len(h.Poststart) == 0 {
		return nil
	}
	err := runHooks(ctx, "poststart", h.Poststart, c.hookState(specs.StateRunning), runHook)
	if err != nil {
		err = errors.Join(err, c.end())
	}
	return err
}

// end kills the first process.
func (c *Container) end() error {
	if err := c.signal(unix.SIGKILL); !errors.Is(err, ErrNotRunning) {
		return err
	}
	return nil
}

// poststop runs the hooks after the container's end. Each is run, and one that fails is logged.
func (c *Container) poststop(ctx context.Context) {
	h := c.state.Bundle.Spec.Hooks
	if h == nil {
		return
	}
	state := c.hookState(specs.StateStopped)
	state.Pid = 0
	for i := range h.Poststop {
		if err := runHooks(ctx, "poststop", h.Poststop[i:i+1], state, runHook); err != nil {
			var failed *hookError
			if errors.As(err, &failed) {
				failed.index = i
			}
			c.runtime.log.Warn("hook", "container", c.ID(), "error", err.Error())
		}
	}
}

// hookState is the document that a hook gets, with the status that belongs to its kind.
func (c *Container) hookState(status specs.ContainerState) *specs.State {
	s := c.state
	return &specs.State{
		Version: s.Bundle.Spec.Version, ID: s.ID, Status: status, Pid: s.Pid, Bundle: s.Bundle.Dir, Annotations: s.Annotations,
	}
}

// hookRun runs one hook with its input and returns what it wrote.
type hookRun func(ctx context.Context, h specs.Hook, input []byte) (output string, err error)

// runHooks runs hooks one after the other, each with the container's state on standard input, until one fails.
func runHooks(ctx context.Context, kind string, hooks []specs.Hook, state *specs.State, run hookRun) error {
	if len(hooks) == 0 {
		return nil
	}
	input, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for i, h := range hooks {
		if output, err := timed(ctx, h, input, run); err != nil {
			return &hookError{kind: kind, index: i, cause: err, output: output}
		}
	}
	return nil
}

// timed runs a hook for no longer than it may take.
func timed(ctx context.Context, h specs.Hook, input []byte, run hookRun) (string, error) {
	if h.Timeout == nil {
		return run(ctx, h, input)
	}
	bounded, cancel := context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
	defer cancel()
	output, err := run(bounded, h, input)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w of %d s", errHookTimeout, *h.Timeout)
	}
	return output, err
}

// runHook runs a hook in the runtime's own namespaces. One without an environment of its own has the runtime's, as with runc. When it
// has to be killed, so are the processes it started.
func runHook(ctx context.Context, h specs.Hook, input []byte) (string, error) {
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = h.Env
	cmd.Stdin = bytes.NewReader(input)
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	output := new(hookOutput)
	cmd.Stdout, cmd.Stderr = output, output
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it has ended well; a process that it left behind holds its output
	}
	return output.String(), err
}

// hookOutput keeps the beginning of what a hook writes, for the message when it fails.
type hookOutput struct{ kept bytes.Buffer }

// maxHookOutput is how much of it is kept, in bytes.
const maxHookOutput = 16 << 10

func (o *hookOutput) Write(data []byte) (int, error) {
	o.kept.Write(data[:min(len(data), maxHookOutput-o.kept.Len())])
	return len(data), nil
}

// String returns what was kept.
func (o *hookOutput) String() string { return string(bytes.TrimSpace(o.kept.Bytes())) }

var _ io.Writer = (*hookOutput)(nil)
