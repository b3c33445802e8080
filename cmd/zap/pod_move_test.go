package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/pod/migrate"
)

// arriving makes a root directory in which a pod is on its way in, as far as the phases given.
func arriving(t *testing.T, name string, phases ...migrate.Phase) *globals {
	t.Helper()
	g := &globals{root: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	dir := filepath.Join(g.root, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	j, err := migrate.NewJournal(dir, migrate.Header{
		Migration: strings.Repeat("ab", 16), Pod: name, Side: "target", Peer: "alpha", Started: time.Unix(1700000000, 0).UTC(), Coordinator: pod.Self(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	for _, p := range phases {
		if err := j.Enter(p); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func TestListArriving(t *testing.T) {
	g := arriving(t, "web", migrate.Accepted, migrate.Receiving)
	for _, other := range []string{"layers", ".criu", "empty"} {
		if err := os.Mkdir(filepath.Join(g.root, other), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	views, err := listPods(g)
	if err != nil {
		t.Fatal(err)
	}
	if len(views) != 1 || views[0].Name != "web" || views[0].Status != "arriving" || views[0].From != "alpha" || views[0].Pid != 0 {
		t.Errorf("listed %+v", views)
	}
	text, err := json.Marshal(views)
	if err != nil || strings.Contains(string(text), "null") {
		t.Errorf("as JSON: %s, %v", text, err)
	}
	var table strings.Builder
	if err := podTable(&table, views); err != nil || !strings.Contains(table.String(), "arriving") {
		t.Errorf("as a table: %q, %v", table.String(), err)
	}
}

func TestListNothing(t *testing.T) {
	for _, root := range []string{t.TempDir(), filepath.Join(t.TempDir(), "missing")} {
		views, err := listPods(&globals{root: root, log: slog.New(slog.DiscardHandler)})
		if text, jerr := json.Marshal(views); err != nil || jerr != nil || string(text) != "[]" {
			t.Errorf("%s: %s, %v, %v", root, text, err, jerr)
		}
	}
}

// TestRemoveArriving wants a pod that is on its way in to be left alone, unless it is forced, and even then while somebody
// brings it.
func TestRemoveArriving(t *testing.T) {
	g := arriving(t, "web", migrate.Accepted, migrate.Receiving)
	err := removePod(context.Background(), g, "web", false)
	if err == nil || !strings.Contains(err.Error(), "alpha") || !strings.Contains(err.Error(), "Receiving") {
		t.Errorf("without --force: %v", err)
	}
	err = removePod(context.Background(), g, "web", true)
	if err == nil || !strings.Contains(err.Error(), "alpha") {
		t.Errorf("while this process receives it: %v", err)
	}
	if _, err := os.Stat(filepath.Join(g.root, "web", migrate.JournalName)); err != nil {
		t.Errorf("it was touched: %v", err)
	}
}

// TestRemoveAbandoned removes a pod whose supervisor and zap serve are gone.
func TestRemoveAbandoned(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: looks for cgroups and links")
	}
	g := arriving(t, "web", migrate.Accepted)
	dir := filepath.Join(g.root, "web")
	j, err := migrate.OpenJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	j.Close()
	// Another journal of the same content has no lock: that of a process that has died.
	data, err := os.ReadFile(j.Path())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(j.Path()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(j.Path(), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := removePod(context.Background(), g, "web", true); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(g.root); err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

func TestRemoveWhatIsNotThere(t *testing.T) {
	g := &globals{root: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	if err := removePod(context.Background(), g, "web", true); err != nil {
		t.Errorf("with --force: %v", err)
	}
	if err := removePod(context.Background(), g, "web", false); err == nil {
		t.Error("without --force: no error")
	}
	for _, name := range []string{"", "..", "../web", "a/b"} {
		if err := removePod(context.Background(), g, name, true); err == nil {
			t.Errorf("%q: no error", name)
		}
	}
}
