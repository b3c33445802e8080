package pod

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// LogOptions choose what ReadLog prints.
type LogOptions struct {
	Follow     bool // go on until the pod ends
	Timestamps bool
	Tail       int // only the last lines; negative: all
	// Done tells, with Follow, that no more will come.
	Done func() bool
}

// followEvery is how often a log that is followed is looked at.
const followEvery = 50 * time.Millisecond

// ReadLog prints the log at path, and the old log before it: what was standard
// output to out, the rest to errs.
func ReadLog(ctx context.Context, path string, out, errs io.Writer, o LogOptions) error {
	files, err := OpenLogs(path)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	p := &logPrinter{out: out, errs: errs, stamps: o.Timestamps}
	if o.Tail >= 0 {
		lines, err := countLines(files)
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		p.skip = max(lines-o.Tail, 0)
	}
	for ; len(files) > 1; files = files[1:] {
		if err := p.print(files[0]); err != nil {
			return err
		}
		files[0].Close()
	}
	return p.follow(ctx, path, files, o)
}

// follow prints the current log, the only one in files, and with Follow what
// comes until the pod ends.
func (p *logPrinter) follow(ctx context.Context, path string, files []*os.File, o LogOptions) error {
	for ended := false; ; {
		if err := p.print(files[0]); err != nil || !o.Follow {
			return err
		}
		if next, err := os.Open(path); err == nil {
			if !sameFile(files[0], next) { // it was full
				if err := p.print(files[0]); err != nil {
					return errors.Join(err, next.Close())
				}
				files[0].Close()
				files[0] = next
				continue
			}
			next.Close()
		}
		if ended {
			return nil
		}
		ended = o.Done != nil && o.Done()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

// OpenLogs opens the log at path, and before it the old one if there is one.
func OpenLogs(path string) ([]*os.File, error) {
	for {
		current, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		old, err := os.Open(OldLogPath(path))
		switch {
		case errors.Is(err, os.ErrNotExist):
			return []*os.File{current}, nil
		case err != nil:
			current.Close()
			return nil, err
		case !sameFile(old, current):
			return []*os.File{old, current}, nil
		}
		old.Close() // it became the old one just now
		current.Close()
	}
}

func sameFile(a, b *os.File) bool {
	ia, err := a.Stat()
	if err != nil {
		return false
	}
	ib, err := b.Stat()
	return err == nil && os.SameFile(ia, ib)
}

// countLines counts the lines of output in logs.
func countLines(files []*os.File) (int, error) {
	counter := &logPrinter{out: io.Discard, errs: io.Discard}
	for _, f := range files {
		if err := counter.print(f); err != nil {
			return 0, err
		}
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
	}
	return counter.lines, nil
}

// logPrinter turns log lines back into the output that they hold.
type logPrinter struct {
	out, errs io.Writer
	stamps    bool
	skip      int // lines of output that are not printed

	lines   int              // lines of output that have begun
	streams map[string]*line // the line that each stream is in
	rest    []byte           // a line of the log that is not complete
}

// line is a line of output in the middle.
type line struct {
	open    bool // what comes next belongs to it
	printed bool
}

// print prints a log from where it stands to its present end.
func (p *logPrinter) print(file *os.File) error {
	r := bufio.NewReaderSize(file, 64<<10)
	for {
		part, err := r.ReadSlice('\n')
		p.rest = append(p.rest, part...)
		switch {
		case err == nil:
			full := p.rest[:len(p.rest)-1]
			p.rest = p.rest[:0]
			if err := p.printLine(full); err != nil {
				return err
			}
		case errors.Is(err, io.EOF):
			return nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("read log: %w", err)
		}
	}
}

// printLine prints one line of the log. One that is none, as a crash of the host
// may leave, is printed as it is.
func (p *logPrinter) printLine(text []byte) error {
	stamp, stream, whole, w := []byte(nil), "stdout", true, p.out
	if f := bytes.SplitN(text, []byte(" "), 4); len(f) == 4 && len(f[2]) == 1 {
		switch string(f[1]) {
		case "stderr":
			w = p.errs
			fallthrough
		case "stdout":
			stamp, stream, whole, text = f[0], string(f[1]), f[2][0] == 'F', f[3]
		}
	}
	if p.streams == nil {
		p.streams = map[string]*line{}
	}
	at := p.streams[stream]
	if at == nil {
		at = &line{}
		p.streams[stream] = at
	}
	var b []byte
	if !at.open {
		p.lines++
		at.printed = p.lines > p.skip
		if p.stamps && stamp != nil {
			b = append(append(b, stamp...), ' ')
		}
	}
	at.open = !whole
	if !at.printed {
		return nil
	}
	b = append(b, text...)
	if whole {
		b = append(b, '\n')
	}
	_, err := w.Write(b)
	return err
}
