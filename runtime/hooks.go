package runtime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// checkHooks names the hooks that are not run yet.
func checkHooks(h *specs.Hooks) error {
	if h != nil && len(h.CreateContainer)+len(h.StartContainer) > 0 {
		return errors.New("hooks inside the container are not supported yet (config.json: hooks.createContainer, hooks.startContainer)")
	}
	return nil
}

// hasRuntimeHooks says whether hooks have to run before the container's mounts are made.
func (c *creation) hasRuntimeHooks() bool {
	h := c.bundle.Spec.Hooks
	//lint:ignore SA1019 prestart is deprecated and in use
	return h != nil && len(h.Prestart)+len(h.CreateRuntime) > 0
}

// runtimeHooks runs the hooks that see the container's namespaces but not its root file system.
func (c *creation) runtimeHooks() error {
	h := c.bundle.Spec.Hooks
	container := &Container{runtime: c.runtime, dir: c.dir, state: c.state}
	state := container.OCIState()
	//lint:ignore SA1019 prestart is deprecated and in use
	if err := runHooks(c.ctx, "prestart", h.Prestart, state); err != nil {
		return err
	}
	return runHooks(c.ctx, "createRuntime", h.CreateRuntime, state)
}

// poststart runs the hooks after the start. A failing one is logged: the container runs already.
func (c *Container) poststart(ctx context.Context) {
	if h := c.state.Bundle.Spec.Hooks; h != nil && len(h.Poststart) > 0 {
		if err := runHooks(ctx, "poststart", h.Poststart, c.OCIState()); err != nil {
			c.runtime.log.Warn("hook", "container", c.ID(), "error", err.Error())
		}
	}
}

// poststop runs the hooks after the container's end. A failing one is logged.
func (c *Container) poststop(ctx context.Context) {
	if h := c.state.Bundle.Spec.Hooks; h != nil && len(h.Poststop) > 0 {
		if err := runHooks(ctx, "poststop", h.Poststop, c.OCIState()); err != nil {
			c.runtime.log.Warn("hook", "container", c.ID(), "error", err.Error())
		}
	}
}

// runHooks runs hooks one after the other, each with the container's state on standard input, until one fails.
func runHooks(ctx context.Context, kind string, hooks []specs.Hook, state *specs.State) error {
	input, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for i, h := range hooks {
		if err := runHook(ctx, h, input); err != nil {
			return fmt.Errorf("run hook %s: %w (config.json: hooks.%s[%d])", h.Path, err, kind, i)
		}
	}
	return nil
}

func runHook(ctx context.Context, h specs.Hook, input []byte) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, h.Path)
	if len(h.Args) > 0 {
		cmd.Args = h.Args
	}
	cmd.Env = append([]string{}, h.Env...)
	cmd.Stdin = bytes.NewReader(input)
	cmd.WaitDelay = time.Second
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		if text := bytes.TrimSpace(output.Bytes()); len(text) > 0 {
			return fmt.Errorf("%w: %s", err, text)
		}
		return err
	}
	return nil
}
