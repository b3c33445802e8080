package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal connects the master of a program's terminal with this command's own standard streams.
type terminal struct {
	master *os.File
	saved  *term.State   // of standard input, when that is a terminal
	output chan struct{} // closed when all output was copied
}

// take starts the copying.
func (t *terminal) take(master *os.File) error {
	t.master, t.output = master, make(chan struct{})
	t.resize()
	// A newline becomes a carriage return and a newline once, in the terminal that shows it: where the output is no terminal, nobody wants
	// the carriage return.
	if err := changeTerminal(master, func(s *unix.Termios) { s.Oflag &^= unix.ONLCR }); err != nil {
		return fmt.Errorf("set terminal: %w", err)
	}
	if in := int(os.Stdin.Fd()); term.IsTerminal(in) {
		saved, err := term.MakeRaw(in)
		if err == nil {
			err = changeTerminal(os.Stdin, func(s *unix.Termios) { s.Oflag |= unix.OPOST })
		}
		if err != nil {
			return fmt.Errorf("set terminal: %w", err)
		}
		t.saved = saved
	}
	go func() {
		_, err := io.Copy(os.Stdout, master)
		_ = err // EIO: nobody has the other end open any more
		close(t.output)
	}()
	go func() {
		if _, err := io.Copy(master, os.Stdin); err == nil && t.saved == nil {
			_, _ = master.Write([]byte{4}) // the end of a file or pipe is the end of the program's input too: control-D
		}
	}()
	return nil
}

// changeTerminal changes the settings of a terminal.
func changeTerminal(f *os.File, change func(*unix.Termios)) error {
	settings, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	change(settings)
	return unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, settings)
}

// resize gives the program's terminal the size of this one.
func (t *terminal) resize() {
	if t.master == nil {
		return
	}
	for _, f := range []*os.File{os.Stdin, os.Stdout} {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			_ = unix.IoctlSetWinsize(int(t.master.Fd()), unix.TIOCSWINSZ, size)
			return
		}
	}
}

// drain waits until what the program wrote is out. Processes that it left behind may keep the terminal open: they are not waited for.
func (t *terminal) drain() {
	if t.output == nil {
		return
	}
	select {
	case <-t.output:
	case <-time.After(200 * time.Millisecond):
	}
}

func (t *terminal) close() {
	if t.saved != nil {
		_ = term.Restore(int(os.Stdin.Fd()), t.saved)
	}
	if t.master != nil {
		_ = t.master.Close()
	}
}
