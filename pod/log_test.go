package pod

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zap-migrate/zap/pod/fulldisk"
)

// logged writes what the streams say, in turn: "stdout:text" or "stderr:text".
func logged(t *testing.T, l *logWriter, said ...string) {
	t.Helper()
	for _, s := range said {
		stream, text, _ := strings.Cut(s, ":")
		if err := l.write(stream, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
}

func testLog(t *testing.T) *logWriter {
	t.Helper()
	l := newLog(filepath.Join(t.TempDir(), "log"))
	t.Cleanup(func() { l.close() })
	return l
}

func readLog(t *testing.T, path string, o LogOptions) (out, errs string) {
	t.Helper()
	var a, b bytes.Buffer
	if err := ReadLog(context.Background(), path, &a, &b, o); err != nil {
		t.Fatal(err)
	}
	return a.String(), b.String()
}

func TestLog(t *testing.T) {
	long := strings.Repeat("x", 2*logLineMax+100)
	for name, tt := range map[string]struct {
		said      []string
		out, errs string
	}{
		"nothing":         {[]string{"stdout:"}, "", ""},
		"lines":           {[]string{"stdout:one\ntwo\n", "stderr:three\n"}, "one\ntwo\n", "three\n"},
		"empty lines":     {[]string{"stdout:\n\n", "stderr:\n"}, "\n\n", "\n"},
		"parts":           {[]string{"stdout:a", "stdout:b", "stdout:c\n"}, "abc\n", ""},
		"a prompt":        {[]string{"stdout:$ "}, "$ ", ""},
		"spaces":          {[]string{"stdout: a  b \n"}, " a  b \n", ""},
		"parts of both":   {[]string{"stdout:a", "stderr:b", "stdout:c\n", "stderr:d\n"}, "ac\n", "bd\n"},
		"bytes":           {[]string{"stdout:\x00\xff\r\x1b[1m\n"}, "\x00\xff\r\x1b[1m\n", ""},
		"a long line":     {[]string{"stdout:" + long + "\n"}, long + "\n", ""},
		"a long part":     {[]string{"stdout:" + long}, long, ""},
		"what looks like": {[]string{"stdout:2006-01-02T15:04:05Z stderr F text\n"}, "2006-01-02T15:04:05Z stderr F text\n", ""},
	} {
		l := testLog(t)
		if err := l.open(); err != nil {
			t.Fatal(err)
		}
		logged(t, l, tt.said...)
		out, errs := readLog(t, l.path, LogOptions{Tail: -1})
		if out != tt.out || errs != tt.errs {
			t.Errorf("%s: %q and %q, want %q and %q", name, out, errs, tt.out, tt.errs)
		}
		data, err := os.ReadFile(l.path)
		if err != nil || int64(len(data)) != l.written() {
			t.Errorf("%s: %d bytes written, the file has %d, %v", name, l.written(), len(data), err)
		}
		for line := range strings.Lines(string(data)) {
			if len(line) > logLineMax+64 {
				t.Errorf("%s: a line of %d bytes", name, len(line))
			}
		}
	}
}

func TestLogTail(t *testing.T) {
	l := testLog(t)
	logged(t, l, "stdout:one\n", "stderr:two\n", "stdout:th", "stdout:ree\nfour\n", "stdout:fi", "stderr:six\n", "stdout:ve\nseven")
	for n, want := range map[int][2]string{
		0: {"", ""}, 1: {"seven", ""}, 2: {"seven", "six\n"}, 3: {"five\nseven", "six\n"}, 5: {"three\nfour\nfive\nseven", "six\n"},
		7: {"one\nthree\nfour\nfive\nseven", "two\nsix\n"}, 100: {"one\nthree\nfour\nfive\nseven", "two\nsix\n"},
	} {
		if out, errs := readLog(t, l.path, LogOptions{Tail: n}); out != want[0] || errs != want[1] {
			t.Errorf("the last %d: %q and %q, want %q and %q", n, out, errs, want[0], want[1])
		}
	}
}

func TestLogTimestamps(t *testing.T) {
	l := testLog(t)
	logged(t, l, "stdout:on", "stderr:two\n", "stdout:e\n")
	out, errs := readLog(t, l.path, LogOptions{Tail: -1, Timestamps: true})
	stamp := `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z `
	if !regexp.MustCompile(stamp+"one\n$").MatchString(out) || !regexp.MustCompile(stamp+"two\n$").MatchString(errs) {
		t.Errorf("%q and %q", out, errs)
	}
}

// TestLogRotates writes more than fits: the last two parts stay, with nothing missing between them.
func TestLogRotates(t *testing.T) {
	l := testLog(t)
	l.max = 1000
	var all []string
	for i := range 200 {
		text := fmt.Sprintf("line %d\n", i)
		all = append(all, text)
		logged(t, l, "stdout:"+text)
	}
	for _, path := range []string{l.path, OldLogPath(l.path)} {
		if info, err := os.Stat(path); err != nil || info.Size() > l.max {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	out, _ := readLog(t, l.path, LogOptions{Tail: -1})
	if lines := strings.Count(out, "\n"); lines < 20 || !strings.HasSuffix(strings.Join(all, ""), out) {
		t.Errorf("of 200 lines %d are there: %q", lines, out)
	}
	if out, _ := readLog(t, l.path, LogOptions{Tail: 25}); out != strings.Join(all[175:], "") {
		t.Errorf("the last 25: %q", out)
	}
	if again := newLog(l.path); again.open() != nil || again.written() != l.written() {
		t.Errorf("opened again it has %d bytes, had %d", again.written(), l.written())
	}
}

// safeBuffer is read while ReadLog writes to it.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestLogFollow follows a log through two changes of the file.
func TestLogFollow(t *testing.T) {
	l := testLog(t)
	l.max = 400
	logged(t, l, "stdout:first\n")
	var out safeBuffer
	var mu sync.Mutex
	done := false
	ended := make(chan error, 1)
	go func() {
		ended <- ReadLog(context.Background(), l.path, &out, &out, LogOptions{Follow: true, Tail: -1, Done: func() bool {
			mu.Lock()
			defer mu.Unlock()
			return done
		}})
	}()
	want := "first\n"
	for i := range 20 {
		text := fmt.Sprintf("line %d\n", i)
		logged(t, l, "stdout:"+text)
		want += text
		until(t, "the line to be printed", func() bool { return out.String() == want })
	}
	logged(t, l, "stdout:last words")
	mu.Lock()
	done = true
	mu.Unlock()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := out.String(); got != want+"last words" {
		t.Errorf("printed %q", got)
	}
	if _, err := os.Stat(OldLogPath(l.path)); err != nil {
		t.Errorf("the log did not change its file: %v", err)
	}
}

func TestLogFollowIsInterrupted(t *testing.T) {
	l := testLog(t)
	logged(t, l, "stdout:x\n")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out bytes.Buffer
	if err := ReadLog(ctx, l.path, &out, &out, LogOptions{Follow: true, Tail: -1}); err != nil || out.String() != "x\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}

// TestLogDamaged reads what a crash or a full disk left.
func TestLogDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	text := "2026-01-01T00:00:00.000000000Z stdout F good\n\x00\x00\x00\n\nstderr F x\n2026-01-01T00:00:00.000000000Z elsewhere F what\n" +
		"2026-01-01T00:00:00.000000000Z stdout F good again\n2026-01-01T00:00:0"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs := readLog(t, path, LogOptions{Tail: -1, Timestamps: true})
	want := "2026-01-01T00:00:00.000000000Z good\n\x00\x00\x00\n\nstderr F x\n2026-01-01T00:00:00.000000000Z elsewhere F what\n2026-01-01T00:00:00.000000000Z good again\n"
	if out != want || errs != "" {
		t.Errorf("%q and %q, want %q", out, errs, want)
	}
}

// TestLogFullDisk has a line that does not fit: nothing of it stays, and what comes later does.
func TestLogFullDisk(t *testing.T) {
	l := testLog(t)
	logged(t, l, "stdout:before\n")
	fulldisk.Run(t, uint64(l.written()+20), func() {
		if err := l.write("stdout", []byte("does not fit\n")); err == nil {
			t.Error("no error")
		}
	})
	logged(t, l, "stdout:after\n")
	if out, _ := readLog(t, l.path, LogOptions{Tail: -1}); out != "before\nafter\n" {
		t.Errorf("%q", out)
	}
}

func TestLogMissing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := ReadLog(context.Background(), path, nil, nil, LogOptions{}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}

// FuzzLog writes anything, in pieces, and reads it again.
func FuzzLog(f *testing.F) {
	f.Add([]byte("hello\nworld"), 3, 64)
	f.Add([]byte("\n\n \x00"), 1, 1)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, piece, tail int) {
		l := newLog(filepath.Join(dir, "log"))
		defer os.Remove(l.path)
		defer l.close()
		if err := l.open(); err != nil {
			t.Fatal(err)
		}
		for rest := data; len(rest) > 0; {
			n := min(max(piece, 1), len(rest))
			logged(t, l, "stdout:"+string(rest[:n]))
			rest = rest[n:]
		}
		out, errs := readLog(t, l.path, LogOptions{Tail: -1})
		if out != string(data) || errs != "" {
			t.Errorf("wrote %q, read %q and %q", data, out, errs)
		}
		if out, _ := readLog(t, l.path, LogOptions{Tail: max(tail, 0)}); !strings.HasSuffix(string(data), out) {
			t.Errorf("the last %d of %q: %q", tail, data, out)
		}
	})
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("wait for %s: it does not come to that", what)
		}
	}
}
