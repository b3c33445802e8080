package pod

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// A pod's log has one line per line of output, in the form that CRI uses:
// time, stream ("stdout" or "stderr"), F for a full line or P for a part of
// one, and the text. When it has logMax bytes it becomes the old log, in the
// place of the one before, and a new one begins.
const (
	logTimeFormat = "2006-01-02T15:04:05.000000000Z07:00"
	logLineMax    = 16 << 10 // bytes of text in a line; longer ones are split
	logMax        = 64 << 20
)

// OldLogPath is where the log at path goes when it is full.
func OldLogPath(path string) string { return path + ".1" }

// logWriter appends to a pod's log. It is safe for use by several goroutines.
type logWriter struct {
	path string
	max  int64

	mu   sync.Mutex
	file *os.File // nil until something is written, because what moves in has first to come
	size int64
	buf  []byte
}

func newLog(path string) *logWriter { return &logWriter{path: path, max: logMax} }

// open opens the log, which it makes if there is none.
func (l *logWriter) open() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.openLocked()
}

func (l *logWriter) openLocked() error {
	if l.file != nil {
		return nil
	}
	file, err := os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return fmt.Errorf("open log: %w", err)
	}
	l.file, l.size = file, info.Size()
	return nil
}

// write adds what a stream said. After a failure nothing of it is there.
func (l *logWriter) write(stream string, data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = l.buf[:0]
	stamp := time.Now().UTC().AppendFormat(nil, logTimeFormat)
	for len(data) > 0 {
		line, tag := data, byte('P')
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			line, tag = data[:i], 'F'
		}
		if len(line) > logLineMax {
			line, tag = line[:logLineMax], 'P'
		}
		if data = data[len(line):]; tag == 'F' {
			data = data[1:]
		}
		l.buf = append(append(l.buf, stamp...), ' ')
		l.buf = append(append(l.buf, stream...), ' ', tag, ' ')
		l.buf = append(append(l.buf, line...), '\n')
	}
	if l.size > 0 && l.size+int64(len(l.buf)) > l.max {
		l.rotate()
	}
	if err := l.openLocked(); err != nil {
		return err
	}
	n, err := l.file.Write(l.buf)
	if err != nil && n > 0 {
		err = errors.Join(err, l.file.Truncate(l.size))
		n = 0
	}
	l.size += int64(n)
	return err
}

// rotate makes room for a new log. If it can't, the log grows.
func (l *logWriter) rotate() {
	if l.file == nil || os.Rename(l.path, OldLogPath(l.path)) != nil {
		return
	}
	l.file.Close()
	l.file, l.size = nil, 0
}

// written is the size of the log in bytes.
func (l *logWriter) written() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.size
}

func (l *logWriter) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}
