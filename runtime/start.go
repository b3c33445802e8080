package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/boot"
)

// gateName is the socket in the container's directory that its first process waits at: whoever connects starts the container. A
// socket, and not a fifo, so that an execve that fails can be told to the one who started it.
const gateName = "start"

// startWait bounds how long Start waits for the execve.
const startWait = 30 * time.Second

// listenGate makes the gate and returns its descriptor.
func listenGate(dir string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make gate: %w", err)
	}
	err = atPath(dir, func(path string) error {
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			return err
		}
		return unix.Listen(fd, 1)
	})
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("make gate: %w", err)
	}
	return fd, nil
}

// atPath calls f with a short path to the gate in dir: socket addresses hold 107 bytes, and dir may be longer.
func atPath(dir string, f func(string) error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), gateName))
}

// Start lets the container's program run. When the program can't be executed the container is stopped and the error is a *boot.Failure.
func (c *Container) Start(ctx context.Context) error {
	unlock, err := lock(ctx, c.dir)
	if err != nil {
		return fmt.Errorf("start container %s: %w", c.ID(), err)
	}
	defer unlock()
	if err := c.start(ctx); err != nil {
		return fmt.Errorf("start container %s: %w", c.ID(), err)
	}
	return nil
}

func (c *Container) start(ctx context.Context) error {
	if err := c.reload(); err != nil {
		return err
	}
	if status := c.Status(); status == StatePaused || !mayBecome(status, specs.StateRunning) {
		return errNotCreated(status)
	}
	if err := c.startHooks(ctx); err != nil {
		return errors.Join(err, c.end(), c.waitStopped(ctx))
	}
	conn, err := c.dialGate()
	if err != nil && !errors.Is(err, unix.ECONNREFUSED) { // refused: an earlier start opened it and was killed before it could say so
		return fmt.Errorf("open gate: %w", err)
	}
	if conn != nil {
		defer conn.Close()
	}
	if err := os.Remove(filepath.Join(c.dir, gateName)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove gate: %w", err)
	}
	if conn != nil {
		if err := c.watchExec(ctx, conn); err != nil {
			return err
		}
	}
	if err := c.save(func(s *State) { s.Status = specs.StateRunning }); err != nil {
		return err
	}
	return c.poststart(ctx)
}

// errNotCreated is why a container that waits for no start can't be started, in runc's words.
func errNotCreated(status specs.ContainerState) error {
	switch status {
	case specs.StateStopped:
		return errors.New("cannot start a container that has stopped")
	case specs.StateRunning:
		return errors.New("cannot start an already running container")
	}
	return fmt.Errorf("cannot start a container that is %s", status)
}

// dialGate connects to the gate.
func (c *Container) dialGate() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	err = atPath(c.dir, func(path string) error { return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) })
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), gateName), nil
}

// watchExec waits until the program runs, which closes the connection, or could not be executed, which is told over it.
func (c *Container) watchExec(ctx context.Context, conn *os.File) error {
	deadline := time.Now().Add(startWait)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := conn.SetReadDeadline(deadline); err != nil {
		return err
	}
	message := make([]byte, 16)
	n, err := conn.Read(message)
	if n == 0 { // the end of the file, or a connection that ended with the process: its status tells
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("wait for program: %w", err)
		}
		return nil
	}
	return boot.DecodeExec("config.json", c.state.Bundle.Spec.Process.Args, message[:n])
}
