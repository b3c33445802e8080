package criu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/criu/criutest"
)

// failedDump is a dump that CRIU has failed in, with a log of size bytes and more.
func failedDump(t *testing.T, size int) (dir string, keep func(ctx context.Context, name string) *Error) {
	t.Helper()
	s, _ := startStand(t,
		criutest.Step{Log: "the beginning"},
		criutest.Step{Log: strings.Repeat("x", size)},
		criutest.Step{Log: "(00.020000) Error (criu/cr-dump.c:2111): the end"},
		criutest.Step{Reply: &criutest.Reply{}})
	opts := dumpOptions(t)
	_, err := s.Dump(t.Context(), opts, Callbacks{})
	dir = filepath.Join(t.TempDir(), "failed")
	return dir, func(ctx context.Context, name string) *Error {
		if err := KeepLog(ctx, err, opts, dir, name); err != nil {
			t.Fatal(err)
		}
		return asError(t, err)
	}
}

func TestKeepLog(t *testing.T) {
	dir, keep := failedDump(t, keptBytes)
	e := keep(t.Context(), "db-1.log")
	want := filepath.Join(dir, "db-1.log")
	if e.Log != want || !strings.Contains(e.Error(), want) {
		t.Errorf("the error does not name the kept log: %v", e)
	}
	data, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) != keptBytes || !bytes.HasSuffix(data, []byte("the end\n")) {
		t.Errorf("%d bytes are kept that end with %.40q", len(data), data[max(0, len(data)-40):])
	}
	if info, err := os.Stat(want); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the kept log is %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory is %v, %v", info.Mode(), err)
	}
}

// TestKeepLogBound keeps more logs than there may be: the oldest go.
func TestKeepLogBound(t *testing.T) {
	dir, keep := failedDump(t, 0)
	for i := range keptLogs + 3 {
		name := fmt.Sprintf("db-%02d.log", i)
		keep(t.Context(), name)
		if at := time.Now().Add(time.Duration(i-100) * time.Second); os.Chtimes(filepath.Join(dir, name), at, at) != nil {
			t.Fatal("set time")
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != keptLogs || entries[0].Name() != "db-03.log" {
		t.Errorf("%d logs are kept, from %v on: %v", len(entries), entries[0], err)
	}
}

// TestKeepLogOfOthers does not keep the log of a CRIU that did not fail.
func TestKeepLogOfOthers(t *testing.T) {
	dir, keep := failedDump(t, 0)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	keep(over, "called-off.log")

	s, _ := startStand(t, criutest.Step{Log: "something"}, criutest.Step{Notify: preDump}, yes)
	opts := dumpOptions(t)
	no := errors.New("the peer is gone")
	_, err := s.Dump(t.Context(), opts, Callbacks{PreDump: func() error { return no }})
	if !errors.Is(err, no) {
		t.Fatal(err)
	}
	if err := errors.Join(KeepLog(t.Context(), err, opts, dir, "refused.log"), KeepLog(t.Context(), nil, opts, dir, "fine.log")); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it kept %v, %v", entries, err)
	}
}

// TestErrorAtTheEnd diagnoses a log that is longer than what is read of one.
func TestErrorAtTheEnd(t *testing.T) {
	_, keep := failedDump(t, 2*maxLog)
	if e := keep(t.Context(), "db-1.log"); e.Cause != "the end" {
		t.Errorf("cause %.100q", e.Cause)
	}
}

// TestLogLevel asks CRIU for all it has to say where zap itself logs so.
func TestLogLevel(t *testing.T) {
	for level, want := range map[slog.Level]int32{slog.LevelWarn: logLevel, slog.LevelDebug: talkativeLevel} {
		s, _ := startStand(t, yes)
		s.log = slog.New(slog.NewTextHandler(&bytes.Buffer{}, &slog.HandlerOptions{Level: level}))
		opts := dumpOptions(t)
		if _, err := s.Dump(t.Context(), opts, Callbacks{}); err != nil {
			t.Fatal(err)
		}
		if got := opts.GetLogLevel(); got != want {
			t.Errorf("CRIU logs at level %d where zap logs at %v, want %d", got, level, want)
		}
	}
}
