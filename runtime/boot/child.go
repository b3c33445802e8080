package boot

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Child is a process that carries out a program.
type Child struct {
	// Pid is the child's process id, in the caller's pid namespace.
	Pid int

	program *Program
	sync    *os.File
}

// Event is what a child says.
type Event struct {
	// Mark is the operation that was reached: MarkCreated, MarkConsole, …; empty when the container's program runs.
	Mark string
	// File is the descriptor that came with it, for the receiver to close; usually nil.
	File *os.File
}

// Next waits for the child's next event. A failed operation is a *Failure. When the child died without a word, the error says so.
func (c *Child) Next(ctx context.Context) (Event, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.sync.SetReadDeadline(past) })
	defer stop()
	data, file, err := receive(c.sync)
	switch {
	case ctx.Err() != nil:
		return Event{}, fmt.Errorf("wait for child %d: %w", c.Pid, ctx.Err())
	case err != nil:
		return Event{}, fmt.Errorf("wait for child %d: %w", c.Pid, err)
	case len(data) == 0:
		return Event{}, nil
	}
	mark, err := c.program.Decode(data)
	if err != nil && file != nil {
		file.Close()
		file = nil
	}
	return Event{Mark: mark, File: file}, err
}

// Continue lets a child go on that waits for the parent's word.
func (c *Child) Continue() error {
	if _, err := c.sync.Write([]byte{1}); err != nil {
		return fmt.Errorf("continue child %d: %w", c.Pid, err)
	}
	return nil
}

// Close lets go of the child; it does not end it once its program runs.
func (c *Child) Close() error { return c.sync.Close() }

// Kill ends the child and waits for its end.
func (c *Child) Kill() error {
	if err := unix.Kill(c.Pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("kill child %d: %w", c.Pid, err)
	}
	for {
		_, err := unix.Wait4(c.Pid, nil, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return nil
		}
	}
}
