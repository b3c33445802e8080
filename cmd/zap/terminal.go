package main

import (
	"errors"
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
	if in := int(os.Stdin.Fd()); term.IsTerminal(in) {
		saved, err := term.MakeRaw(in)
		if err != nil {
			return err
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

// errNoTerminal is why a program with a terminal can't be left alone without somebody to take it.
var errNoTerminal = errors.New("flag --console-socket: needed for a terminal together with --detach")
