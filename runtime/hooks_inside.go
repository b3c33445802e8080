package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/boot"
)

// insideHooks runs hooks in the container's namespaces and cgroup, while its first process waits. Each is a process like one that Exec
// starts, so a container without such hooks has nothing to do for them. Its file system is what the first process has: the host's, with
// the container's mounted at the root's path, for createContainer; the container's own for startContainer.
func (c *Container) insideHooks(ctx context.Context, kind string, hooks []specs.Hook, status specs.ContainerState) error {
	if len(hooks) == 0 {
		return nil
	}
	state := c.hookState(status)
	pid, err := innerPid(state.Pid)
	if err != nil {
		return fmt.Errorf("run hooks: %w (config.json: hooks.%s)", err, kind)
	}
	state.Pid = pid
	base := c.state.Bundle.Spec.Process
	if kind == "createContainer" {
		base = c.createContainerProcess()
	}
	return runHooks(ctx, kind, hooks, state, func(ctx context.Context, h specs.Hook, input []byte) (string, error) {
		p := *base
		p.Args, p.Terminal = h.Args, false
		if len(p.Args) == 0 {
			p.Args = []string{h.Path}
		}
		if h.Env != nil {
			p.Env = h.Env
		}
		return c.runInside(ctx, h.Path, kind == "createContainer", &p, input)
	})
}

// createContainerProcess is a process with all privileges that starts in the root file system, which is not the root yet. What the image
// says about the environment is not for a program of the host: it has the runtime's.
func (c *Container) createContainerProcess() *specs.Process {
	b := c.state.Bundle
	root := b.RootPath()
	if b.Overlay != nil {
		root = b.Overlay.Upper
	}
	return &specs.Process{Cwd: root, Env: os.Environ(), Capabilities: boot.AllCapabilities()}
}

// innerPid returns the pid of a process in its own pid namespace.
func innerPid(pid int) (int, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if list, ok := strings.CutPrefix(line, "NSpid:"); ok {
			if pids := strings.Fields(list); len(pids) > 0 {
				return strconv.Atoi(pids[len(pids)-1])
			}
		}
	}
	return pid, nil
}

// runInside runs a program, of the host or the container, in the container to its end, with input on standard input, and returns what it
// wrote.
func (c *Container) runInside(ctx context.Context, program string, host bool, p *specs.Process, input []byte) (string, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return "", err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return "", errors.Join(err, inR.Close(), inW.Close())
	}
	defer outR.Close()
	e := &execution{container: c, program: program, host: host, options: ExecOptions{Process: p, Document: "hook", Stdin: inR, Stdout: outW, Stderr: outW}}
	child, err := e.begin(ctx)
	e.close()
	inR.Close()
	outW.Close()
	if err != nil {
		return "", errors.Join(err, inW.Close())
	}
	go func() {
		_, _ = inW.Write(input) // a hook need not read it
		inW.Close()
	}()
	output, read := new(hookOutput), make(chan struct{})
	go func() {
		_, _ = io.Copy(output, outR)
		close(read)
	}()
	status, err := (&Process{Pid: child.Pid}).end(ctx)
	if err != nil { // it took too long: the session that it leads goes with it
		_ = unix.Kill(-child.Pid, unix.SIGKILL)
		err = errors.Join(err, child.Kill())
	} else if status.Signaled() {
		err = fmt.Errorf("signal: %v", status.Signal())
	} else if code := status.ExitStatus(); code != 0 {
		err = fmt.Errorf("exit status %d", code)
		if code > 128 && code < 128+65 { // as a shell says it, and Process.Wait
			err = fmt.Errorf("%w (%v)", err, unix.Signal(code-128))
		}
	}
	inW.Close()
	_ = outR.SetReadDeadline(time.Now().Add(time.Second)) // a process that it left behind may hold its output
	<-read
	return output.String(), err
}
