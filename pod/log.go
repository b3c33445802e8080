package pod

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// A pod's log has one line per line of output, in the form that CRI uses:
// time, stream ("stdout" or "stderr"), F for a full line or P for a part of
// one, and the text.
const (
	logTimeFormat = "2006-01-02T15:04:05.000000000Z07:00"
	logLineMax    = 16 << 10
)

// logWriter appends to a pod's log. It is safe for use by several goroutines.
type logWriter struct {
	mu   sync.Mutex
	file *os.File
	size int64
	buf  []byte
}

func openLog(path string) (*logWriter, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &logWriter{file: file, size: info.Size()}, nil
}

// write adds what a stream said; lines longer than logLineMax are split.
func (l *logWriter) write(stream string, data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = l.buf[:0]
	stamp := time.Now().UTC().AppendFormat(nil, logTimeFormat)
	for len(data) > 0 {
		line, tag := data, byte('P')
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			line, tag, data = data[:i], 'F', data[i+1:]
		} else {
			data = nil
		}
		l.buf = append(append(l.buf, stamp...), ' ')
		l.buf = append(append(l.buf, stream...), ' ', tag, ' ')
		l.buf = append(append(l.buf, line...), '\n')
	}
	n, err := l.file.Write(l.buf)
	l.size += int64(n)
	return err
}

// sync waits for writes under way and returns the log's size in bytes.
func (l *logWriter) sync() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

func (l *logWriter) close() error { return l.file.Close() }

// LogOptions choose what ReadLog prints.
type LogOptions struct {
	Follow     bool // go on until the pod ends
	Timestamps bool
	Tail       int // only the last lines; negative: all
	// Done tells, with Follow, that no more will come.
	Done func() bool
}

// ReadLog prints the log at path: what was standard output to out, the rest to errs.
func ReadLog(ctx context.Context, path string, out, errs io.Writer, o LogOptions) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	defer file.Close()
	if o.Tail >= 0 {
		if err := seekTail(file, o.Tail); err != nil {
			return fmt.Errorf("read log: %w", err)
		}
	}
	printer := &logPrinter{out: out, errs: errs, stamps: o.Timestamps, fresh: true}
	chunk := make([]byte, 64<<10)
	ended := false
	for {
		n, err := file.Read(chunk)
		if perr := printer.feed(chunk[:n]); perr != nil {
			return perr
		}
		switch {
		case err == nil:
			continue
		case !errors.Is(err, io.EOF):
			return fmt.Errorf("read log: %w", err)
		case !o.Follow || ended:
			return nil
		}
		ended = o.Done != nil && o.Done()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// seekTail leaves file at the start of its last n lines.
func seekTail(file *os.File, n int) error {
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return err
	}
	chunk := make([]byte, 64<<10)
	lines, pos := 0, end
	for pos > 0 {
		size := min(int64(len(chunk)), pos)
		pos -= size
		if _, err := file.ReadAt(chunk[:size], pos); err != nil {
			return err
		}
		for i := size - 1; i >= 0; i-- {
			if chunk[i] == '\n' && pos+i != end-1 {
				if lines++; lines == n {
					_, err = file.Seek(pos+i+1, io.SeekStart)
					return err
				}
			}
		}
	}
	_, err = file.Seek(0, io.SeekStart)
	return err
}

// logPrinter turns log lines back into the output they hold.
type logPrinter struct {
	out, errs io.Writer
	stamps    bool
	fresh     bool // the next text begins a line
	rest      []byte
}

func (p *logPrinter) feed(data []byte) error {
	p.rest = append(p.rest, data...)
	for {
		i := bytes.IndexByte(p.rest, '\n')
		if i < 0 {
			return nil
		}
		if err := p.line(p.rest[:i]); err != nil {
			return err
		}
		p.rest = p.rest[i+1:]
	}
}

func (p *logPrinter) line(line []byte) error {
	fields := bytes.SplitN(line, []byte(" "), 4)
	if len(fields) != 4 {
		return fmt.Errorf("read log: line %.40q is not of a pod's log", line)
	}
	var text []byte
	if p.stamps && p.fresh {
		text = append(append(text, fields[0]...), ' ')
	}
	text = append(text, fields[3]...)
	p.fresh = string(fields[2]) == "F"
	if p.fresh {
		text = append(text, '\n')
	}
	w := p.out
	if string(fields[1]) == "stderr" {
		w = p.errs
	}
	_, err := w.Write(text)
	return err
}
