package migrate

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/pod/fulldisk"
)

const aMigration = "0123456789abcdef0123456789abcdef"

func header(side string) Header {
	return Header{Migration: aMigration, Pod: "web", Side: side, Peer: "192.0.2.2:7800", Started: time.Unix(1700000000, 0).UTC(), Coordinator: pod.Self()}
}

func newTestJournal(t *testing.T, dir, side string) *Journal {
	t.Helper()
	j, err := NewJournal(dir, header(side))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func enter(t *testing.T, j *Journal, phases ...Phase) {
	t.Helper()
	for _, p := range phases {
		if err := j.Enter(p); err != nil {
			t.Fatal(err)
		}
	}
}

func reopen(t *testing.T, dir string) *Journal {
	t.Helper()
	j, err := OpenJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// TestJournal writes both sides' journals and reads them again after each phase.
func TestJournal(t *testing.T) {
	for side, phases := range order {
		dir := t.TempDir()
		j := newTestJournal(t, dir, side)
		var told []Phase
		j.Entered = func(p Phase) { told = append(told, p) }
		if got := reopen(t, dir); got.Phase() != "" || got.Header != header(side) {
			t.Errorf("%s: a new journal reads as %+v in %q", side, got.Header, got.Phase())
		}
		for _, p := range phases[1:] {
			enter(t, j, p)
			if got := reopen(t, dir).Phase(); got != p {
				t.Errorf("%s: in %s it reads as %q", side, p, got)
			}
		}
		if !slices.Equal(told, phases[1:]) {
			t.Errorf("%s: told of %v", side, told)
		}
		if err := j.Enter(phases[1]); err == nil || !strings.Contains(err.Error(), "web") {
			t.Errorf("%s: from the last phase to the first: %v", side, err)
		}
		if got := reopen(t, dir).Phase(); got != phases[len(phases)-1] {
			t.Errorf("%s: a phase that was refused is in the journal: %s", side, got)
		}
	}
}

func TestJournalRemembersCriu(t *testing.T) {
	dir := t.TempDir()
	j := newTestJournal(t, dir, "source")
	enter(t, j, Offered, PreCopying)
	want := pod.Process{Pid: 4711, StartTime: 99}
	if err := j.NoteCriu(want); err != nil {
		t.Fatal(err)
	}
	got := reopen(t, dir)
	if got.criu == nil || *got.criu != want || got.Phase() != PreCopying {
		t.Errorf("read %v in %s, wrote %v", got.criu, got.Phase(), want)
	}
}

// TestJournalTorn cuts a journal at every byte, as a crash may, and goes on with what is left.
func TestJournalTorn(t *testing.T) {
	full := t.TempDir()
	enter(t, newTestJournal(t, full, "source"), Offered, PreCopying, Frozen, Sent)
	data, err := os.ReadFile(filepath.Join(full, JournalName))
	if err != nil {
		t.Fatal(err)
	}
	phases := order["source"]
	for n := range len(data) + 1 {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, JournalName), data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := OpenJournal(dir)
		whole := bytes.Count(data[:n], []byte("\n"))
		if whole == 0 {
			if err == nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("cut in its header, at %d: %v", n, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("cut at %d: %v", n, err)
			continue
		}
		if want := phases[whole-1]; j.Phase() != want {
			t.Errorf("cut at %d it is in %s, want %s", n, j.Phase(), want)
		}
		if err := j.Enter(Aborted); err != nil {
			t.Errorf("cut at %d: %v", n, err)
		}
		j.Close()
		if got := reopen(t, dir).Phase(); got != Aborted {
			t.Errorf("cut at %d: after Aborted it is in %s", n, got)
		}
	}
}

// TestJournalFullDisk lets a line not fit: nothing of it may stay, and the phase is not entered.
func TestJournalFullDisk(t *testing.T) {
	dir := t.TempDir()
	j := newTestJournal(t, dir, "source")
	enter(t, j, Offered, PreCopying, Frozen, Sent)
	before, err := os.ReadFile(j.Path())
	if err != nil {
		t.Fatal(err)
	}
	// A limit on the size of files stands for a disk that has room for half a line.
	fulldisk.Run(t, uint64(len(before)+10), func() {
		if err := j.Enter(Committed); !errors.Is(err, syscall.EFBIG) {
			t.Errorf("enter a phase without room: %v", err)
		}
	})
	after, err := os.ReadFile(j.Path())
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the journal was %q and is %q, %v", before, after, err)
	}
	if j.Phase() != Sent {
		t.Errorf("in phase %s", j.Phase())
	}
	enter(t, j, Aborted)
	if got := reopen(t, dir).Phase(); got != Aborted {
		t.Errorf("with room again it is in %s", got)
	}
}

func TestJournalIsOne(t *testing.T) {
	dir := t.TempDir()
	first := newTestJournal(t, dir, "source")
	enter(t, first, Offered)
	_, err := NewJournal(dir, Header{Migration: strings.Repeat("f", 32), Pod: "web", Side: "source"})
	if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "Offered") {
		t.Errorf("a second journal: %v", err)
	}
	if err := first.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenJournal(dir); !errors.Is(err, ErrNoJournal) {
		t.Errorf("after its end: %v", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("it left %v, %v", names, err)
	}
	if err := first.Remove(); err != nil {
		t.Errorf("remove it again: %v", err)
	}
}

// TestJournalReplaced has somebody hold a journal whose move was ended by another, while a new move has begun: what it does
// must not touch the new one.
func TestJournalReplaced(t *testing.T) {
	dir := t.TempDir()
	enter(t, newTestJournal(t, dir, "source"), Offered, PreCopying, Frozen, Aborted)
	old := reopen(t, dir)
	if !old.current() {
		t.Error("the only journal is not current")
	}
	if err := reopen(t, dir).Remove(); err != nil {
		t.Fatal(err)
	}
	if old.current() {
		t.Error("a journal that was removed is current")
	}
	enter(t, newTestJournal(t, dir, "source"), Offered)
	if old.current() {
		t.Error("a journal that was replaced is current")
	}
	if err := old.lock(context.Background()); !errors.Is(err, ErrNoJournal) {
		t.Errorf("lock a journal that was replaced: %v", err)
	}
	if err := old.Remove(); err != nil {
		t.Error(err)
	}
	if got := reopen(t, dir).Phase(); got != Offered {
		t.Errorf("the new journal is in %q", got)
	}
}

func TestJournalLock(t *testing.T) {
	dir := t.TempDir()
	first := newTestJournal(t, dir, "source")
	enter(t, first, Offered)
	brief, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := LockJournal(brief, dir); !errors.Is(err, ErrBusy) {
		t.Errorf("lock what its coordinator has: %v", err)
	}
	got := make(chan *Journal)
	go func() {
		j, err := LockJournal(context.Background(), dir)
		if err != nil {
			t.Error(err)
		}
		got <- j
	}()
	enter(t, first, PreCopying)
	first.Close()
	j := <-got
	defer j.Close()
	if j.Phase() != PreCopying {
		t.Errorf("whoever waited for the lock sees phase %s", j.Phase())
	}
	j.unlock()
	other, err := LockJournal(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Remove(); err != nil {
		t.Fatal(err)
	}
	if err := j.lock(context.Background()); !errors.Is(err, ErrNoJournal) {
		t.Errorf("lock a journal that is gone: %v", err)
	}
}

func TestJournalUnreadable(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "no document": "hello\n", "no header": "{}\n", "another document": `{"phase":"Offered"}` + "\n", "array": "[]\n",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, JournalName), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenJournal(dir); err == nil || errors.Is(err, ErrNoJournal) {
			t.Errorf("%s: %v", name, err)
		}
		if data, err := os.ReadFile(filepath.Join(dir, JournalName)); err != nil || string(data) != text {
			t.Errorf("%s: the file was changed: %q, %v", name, data, err)
		}
	}
}

// FuzzJournal reads anything: it must not panic, and what it accepts it must go on with.
func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"migration":"x","pod":"p","side":"source"}` + "\n" + `{"phase":"Offered"}` + "\n"))
	f.Add([]byte(`{"migration":"x","pod":"p"}` + "\n\n" + `{"pha`))
	f.Add([]byte("\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, JournalName), data, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := OpenJournal(dir)
		if err != nil {
			return
		}
		defer j.Close()
		to := next[j.Phase()]
		if len(to) == 0 || len(data) > maxJournal {
			return
		}
		if err := j.Enter(to[0]); err != nil {
			t.Fatal(err)
		}
		again, err := OpenJournal(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if again.Phase() != to[0] {
			t.Errorf("entered %s, read %s", to[0], again.Phase())
		}
	})
}
