package boot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Child is a process that carries out a program.
type Child struct {
	// Pid is the child's process id, in the caller's pid namespace.
	Pid int

	program *Program
	sync    *os.File
	trace   *trace
	steps   []step
}

// Event is what a child says.
type Event struct {
	// Mark is the operation that was reached: MarkCreated, MarkConsole, …; empty when the container's program runs.
	Mark string
	// File is the descriptor that came with it, for the receiver to close; usually nil. Second is another one, with MarkCopyUp.
	File, Second *os.File
	// Place is the index of the mount that a question is about.
	Place int
}

// Close closes the descriptors that came with the event.
func (e *Event) Close() {
	for _, f := range []*os.File{e.File, e.Second} {
		if f != nil {
			f.Close()
		}
	}
}

// Next waits for the child's next event. A failed operation is a *Failure. When the child died without a word, the error says so.
func (c *Child) Next(ctx context.Context) (Event, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.sync.SetReadDeadline(past) })
	defer stop()
	data, files, err := receive(c.sync)
	event := Event{File: files[0], Second: files[1]}
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case err == nil && len(data) > 0:
		if event.Mark, err = c.program.Decode(data); err == nil {
			event.Place = c.program.Ops[binary.NativeEndian.Uint32(data)].Place
			return event, nil
		}
		event.Close()
		return Event{}, err
	case err == nil:
		return Event{}, nil
	}
	event.Close()
	return Event{}, fmt.Errorf("wait for child %d: %w", c.Pid, err)
}

// birthWait bounds the time between the birth of the child and that of the one that takes its place.
const birthWait = 30 * time.Second

// awaitBirth waits until the child has handed over to another one, and for its end.
func (c *Child) awaitBirth() error {
	_ = c.sync.SetReadDeadline(time.Now().Add(birthWait))
	data, _, err := receive(c.sync)
	switch {
	case err != nil:
		return fmt.Errorf("wait for child %d: %w", c.Pid, err)
	case len(data) == 0:
		return fmt.Errorf("process %d ended before it was ready", c.Pid)
	}
	if pid := c.program.newborn(data); pid > 0 {
		first := *c
		c.Pid = pid
		_ = c.sync.SetReadDeadline(time.Time{})
		return first.wait()
	}
	if _, err := c.program.Decode(data); err != nil {
		return err
	}
	return fmt.Errorf("wait for child %d: it has no successor", c.Pid)
}

// Continue lets a child go on that waits for the parent's word.
func (c *Child) Continue() error {
	if _, err := c.sync.Write([]byte{1}); err != nil {
		return fmt.Errorf("continue child %d: %w", c.Pid, err)
	}
	return nil
}

// Give is Continue with a descriptor that the child asked for. It does not close the file.
func (c *Child) Give(file *os.File) error {
	conn, err := c.sync.SyscallConn()
	if err == nil {
		rights := unix.UnixRights(int(file.Fd()))
		var serr error
		err = conn.Write(func(fd uintptr) bool {
			serr = unix.Sendmsg(int(fd), []byte{1}, rights, nil, unix.MSG_NOSIGNAL)
			return serr != unix.EAGAIN
		})
		err = errors.Join(err, serr)
	}
	if err != nil {
		return fmt.Errorf("continue child %d: %w", c.Pid, err)
	}
	return nil
}

// Close lets go of the child; it does not end it once its program runs.
func (c *Child) Close() error {
	c.trace.close()
	c.trace = nil
	return c.sync.Close()
}

// Kill ends the child and waits for its end.
func (c *Child) Kill() error {
	if err := unix.Kill(c.Pid, unix.SIGKILL); err != nil {
		return fmt.Errorf("kill child %d: %w", c.Pid, err)
	}
	return c.wait()
}

// wait waits for the child's end.
func (c *Child) wait() error {
	for {
		_, err := unix.Wait4(c.Pid, nil, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return nil
		}
	}
}
