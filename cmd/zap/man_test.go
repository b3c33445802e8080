package main

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra/doc"
)

var update = flag.Bool("update", false, "write the man pages anew")

const manDir = "../../docs/man"

// manDate stands in every man page, so that they change only with what they say.
var manDate = time.Date(2026, time.November, 22, 0, 0, 0, 0, time.UTC)

// generated is what a directory should hold.
func generated(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("nothing was written: %v", err)
	}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(p)] = text
	}
	return files
}

// compare wants a directory of the repository to hold just these files, or with -update makes it so.
func compare(t *testing.T, dir string, want map[string][]byte) {
	t.Helper()
	if *update {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range want {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	have := generated(t, dir)
	for name, text := range want {
		if !bytes.Equal(have[name], text) {
			t.Errorf("%s/%s is not what the program says of itself (make docs writes it anew)", dir, name)
		}
		delete(have, name)
	}
	for name := range have {
		t.Errorf("%s/%s is of no verb (make docs)", dir, name)
	}
}

// TestManPages wants a man page for every verb, generated from the same definitions as its help.
func TestManPages(t *testing.T) {
	root := newRootCommand(new(globals), []string{"help"})
	root.DisableAutoGenTag = true
	dir := t.TempDir()
	header := &doc.GenManHeader{Title: "ZAP", Section: "8", Source: "zap", Manual: "zap", Date: &manDate}
	if err := doc.GenManTree(root, header, dir); err != nil {
		t.Fatal(err)
	}
	pages := generated(t, dir)
	for _, v := range verbs {
		c := v.build(new(globals))
		if text, ok := pages["zap-"+v.name+".8"]; ok == c.Hidden || ok && !bytes.Contains(text, []byte(strings.TrimSuffix(c.Short, "."))) {
			t.Errorf("the page of %s: %v, hidden: %v", v.name, ok, c.Hidden)
		}
	}
	compare(t, manDir, pages)
}

// TestCompletions wants scripts that the shells can read, and every verb and flag from the program when they ask it.
func TestCompletions(t *testing.T) {
	root := newRootCommand(new(globals), []string{"completion"})
	var script bytes.Buffer
	if err := root.GenBashCompletionV2(&script, true); err != nil {
		t.Fatal(err)
	}
	bash := exec.Command("bash", "-n")
	bash.Stdin = &script
	if out, err := bash.CombinedOutput(); err != nil {
		t.Errorf("bash can't read its completion: %v: %s", err, out)
	}
	for _, ask := range []struct{ args, want []string }{
		{[]string{""}, []string{"run", "exec", "migrate", "pod"}},
		{[]string{"migrate", "--m"}, []string{"--mode", "--max-downtime"}},
		{[]string{"pod", ""}, []string{"run", "logs", "attach"}},
	} {
		args := append([]string{"__complete"}, ask.args...)
		root := newRootCommand(new(globals), args)
		var out bytes.Buffer
		root.SetOut(&out)
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		for _, want := range ask.want {
			if !strings.Contains("\n"+out.String(), "\n"+want) {
				t.Errorf("zap %s does not offer %s: %s", strings.Join(ask.args, " "), want, out.String())
			}
		}
	}
}
