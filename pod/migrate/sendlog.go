package migrate

import (
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
)

// sendLog sends the pod's logs, the second time only what is new. Between the
// two calls the log may have become the old one.
func (f *files) sendLog(conn *stream.Conn) error {
	if !f.pod.Supervised() {
		return nil
	}
	logs, err := pod.OpenLogs(pod.LogPath(f.pod.Dir()))
	if err != nil {
		return fmt.Errorf("send log: %w", err)
	}
	defer func() {
		for _, l := range logs {
			if l != f.log {
				l.Close()
			}
		}
	}()
	known := slices.IndexFunc(logs, f.isLog)
	last := len(logs) - 1
	if known < 0 { // all is new, or was replaced meanwhile
		if f.logged = 0; last > 0 {
			if err := f.sendLogFile(conn, logs[0], section{Name: oldLog}); err != nil {
				return err
			}
		}
		f.logged = 0
		known = last
	}
	if known < last { // what is left of the one that was sent, which is the old one then
		if err := f.sendLogFile(conn, logs[known], section{}); err != nil {
			return err
		}
		f.logged = 0
	}
	err = f.sendLogFile(conn, logs[last], section{Rotate: known < last})
	f.closeLog()
	f.log = logs[last] // kept open, so that it is not taken for another one of the same number
	return err
}

// isLog says whether a file is the log that was sent last.
func (f *files) isLog(file *os.File) bool {
	if f.log == nil {
		return false
	}
	a, err := f.log.Stat()
	if err != nil {
		return false
	}
	b, err := file.Stat()
	return err == nil && os.SameFile(a, b) && b.Size() >= f.logged
}

func (f *files) closeLog() {
	if f.log != nil {
		f.log.Close()
	}
}

// sendLogFile sends one log from f.logged on.
func (f *files) sendLogFile(conn *stream.Conn, file *os.File, s section) error {
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("send log: %w", err)
	}
	s.Kind, s.Offset, s.Size = sectionLog, f.logged, info.Size()-f.logged
	if err := conn.WriteJSON(frameSection, s); err != nil {
		return err
	}
	reader := io.NewSectionReader(file, s.Offset, s.Size)
	buf := make([]byte, 256<<10)
	for left := s.Size; left > 0; {
		n, err := reader.Read(buf)
		if err != nil {
			return fmt.Errorf("send log: %w", err)
		}
		if err := conn.WriteData(frameBytes, buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
		f.logged += int64(n)
		f.sent.Add(int64(n))
	}
	return nil
}
