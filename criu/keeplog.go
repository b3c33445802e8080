package criu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
)

const (
	keptBytes = 256 << 10 // of a log: its end, where the failure is
	keptLogs  = 16        // in one directory
)

// KeepLog copies the end of the log of a request that CRIU has failed in, 256 KiB at most, to the file name in dir, and has err, the error of
// that request with the options opts, name that file. It makes dir and keeps the 16 newest files in it. It does nothing for a request that
// came to nothing because a callback said no or ctx has ended, nor when there is no log.
func KeepLog(ctx context.Context, err error, opts *rpc.CriuOpts, dir, name string) error {
	var e *Error
	if !errors.As(err, &e) || e.refused || ctx.Err() != nil {
		return nil
	}
	path := filepath.Join(dir, name)
	kept, err := copyLog(openableLog(opts), dir, path)
	if err != nil {
		return fmt.Errorf("keep CRIU's log: %w", err)
	}
	if kept {
		e.Log = path
	}
	return forgetLogs(dir)
}

// copyLog copies the end of a log; it says whether there was one.
func copyLog(from, dir, to string) (bool, error) {
	log, err := os.Open(from)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer log.Close()
	if err := seekToLast(log, keptBytes); err != nil {
		return false, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return false, err
	}
	_, err = io.Copy(out, io.LimitReader(log, keptBytes))
	if err = errors.Join(err, out.Close()); err != nil {
		return false, errors.Join(err, os.Remove(to))
	}
	return true, nil
}

// seekToLast goes to where the last n bytes of a file begin.
func seekToLast(f *os.File, n int64) error {
	info, err := f.Stat()
	if err == nil {
		_, err = f.Seek(max(0, info.Size()-n), io.SeekStart)
	}
	return err
}

// forgetLogs removes all but the newest logs in dir.
func forgetLogs(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for CRIU's old logs: %w", err)
	}
	var logs []os.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			logs = append(logs, info)
		}
	}
	slices.SortFunc(logs, func(a, b os.FileInfo) int {
		return cmp.Or(b.ModTime().Compare(a.ModTime()), cmp.Compare(b.Name(), a.Name()))
	})
	for _, old := range logs[min(len(logs), keptLogs):] {
		if err := os.Remove(filepath.Join(dir, old.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove CRIU's old log: %w", err)
		}
	}
	return nil
}
