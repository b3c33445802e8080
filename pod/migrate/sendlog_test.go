package migrate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod"
)

// appendTo writes to a log as its supervisor does.
func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

// TestLogTravels sends a log while it grows and is replaced, and wants the target's to be the same in the end.
func TestLogTravels(t *testing.T) {
	big := strings.Repeat("x", 700<<10)
	rotate := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Rename(path, pod.OldLogPath(path)); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		before, between func(t *testing.T, path string)
	}{
		"empty":  {func(t *testing.T, p string) { appendTo(t, p, "") }, func(*testing.T, string) {}},
		"still":  {func(t *testing.T, p string) { appendTo(t, p, "hello\n") }, func(*testing.T, string) {}},
		"big":    {func(t *testing.T, p string) { appendTo(t, p, big) }, func(t *testing.T, p string) { appendTo(t, p, big) }},
		"grows":  {func(t *testing.T, p string) { appendTo(t, p, "a\n") }, func(t *testing.T, p string) { appendTo(t, p, "b\n") }},
		"begins": {func(t *testing.T, p string) { appendTo(t, p, "") }, func(t *testing.T, p string) { appendTo(t, p, "b\n") }},
		"was full": {
			func(t *testing.T, p string) { appendTo(t, p, "a\n"); rotate(t, p); appendTo(t, p, "b\n") },
			func(t *testing.T, p string) { appendTo(t, p, "c\n") },
		},
		"becomes full": {
			func(t *testing.T, p string) { appendTo(t, p, "a\n") },
			func(t *testing.T, p string) { appendTo(t, p, "b\n"); rotate(t, p); appendTo(t, p, "c\n") },
		},
		"becomes full again": {
			func(t *testing.T, p string) { appendTo(t, p, "a\n"); rotate(t, p); appendTo(t, p, "b\n") },
			func(t *testing.T, p string) { appendTo(t, p, "c\n"); rotate(t, p); appendTo(t, p, "d\n") },
		},
		"is replaced": {
			func(t *testing.T, p string) { appendTo(t, p, "a\n") },
			func(t *testing.T, p string) {
				rotate(t, p)
				appendTo(t, p, "b\n")
				rotate(t, p)
				appendTo(t, p, "c\n")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, p := testPod(t, "web")
			path := pod.LogPath(p.Dir())
			near, far := pair(t)
			in := &incoming{dir: t.TempDir()}
			stored := make(chan error, 1)
			go func() { stored <- storeLogs(in, far) }()
			f := &files{pod: p}
			tt.before(t, path)
			if err := f.sendLog(near); err != nil {
				t.Fatal(err)
			}
			tt.between(t, path)
			if err := f.sendLog(near); err != nil {
				t.Fatal(err)
			}
			if err := near.WriteJSON(frameSection, section{Kind: sectionEnd}); err != nil {
				t.Fatal(err)
			}
			within(t, "storing", func() {
				if err := <-stored; err != nil {
					t.Fatal(err)
				}
			})
			for _, of := range []func(string) string{func(p string) string { return p }, pod.OldLogPath} {
				want, werr := os.ReadFile(of(path))
				got, gerr := os.ReadFile(of(pod.LogPath(in.dir)))
				if string(got) != string(want) || os.IsNotExist(werr) != os.IsNotExist(gerr) {
					t.Errorf("%s: %d bytes %.40q, %v; sent %d bytes %.40q, %v", of("log"), len(got), got, gerr, len(want), want, werr)
				}
			}
		})
	}
}

// storeLogs takes in what sendLog sends until the end.
func storeLogs(in *incoming, conn *stream.Conn) error {
	for {
		f, err := conn.Read()
		if err != nil {
			return err
		}
		var s section
		if err := f.JSON(&s); err != nil {
			return err
		}
		if s.Kind == sectionEnd {
			return nil
		}
		if err := in.storeLog(conn, &s); err != nil {
			return err
		}
	}
}

func TestLogIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "web")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if kept, err := keepLog(dir); kept != "" || err != nil {
		t.Errorf("without a log: %q, %v", kept, err)
	}
	appendTo(t, pod.LogPath(dir), "new")
	appendTo(t, pod.OldLogPath(pod.LogPath(dir)), "old")
	for range 2 { // as after a crash
		kept, err := keepLog(dir)
		if kept != dir+".log" || err != nil {
			t.Errorf("kept in %q, %v", kept, err)
		}
	}
	for path, want := range map[string]string{dir + ".log": "new", dir + ".log.1": "old"} {
		if data, err := os.ReadFile(path); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", path, data, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
