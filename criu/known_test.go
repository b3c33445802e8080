package criu

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestKnown wants a CRIU to be run and summed once, and again as soon as the file is another; a script, which may run another CRIU, each time.
func TestKnown(t *testing.T) {
	real := realCRIU(t)
	cache, path := filepath.Join(t.TempDir(), "cache"), filepath.Join(t.TempDir(), "criu")
	copyFile(t, real.Path, path)
	open := func() *Binary {
		t.Helper()
		b, err := openKnown(t.Context(), path, cache)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if b := open(); b.Version != real.Version || b.SHA256 != real.SHA256 || b.Path != path {
		t.Fatalf("found %+v", b)
	}
	kept := knownPath(cache, path)
	forge(t, kept, real.SHA256)
	if b := open(); b.SHA256 == real.SHA256 {
		t.Error("what is known was not used")
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if b := open(); b.SHA256 != real.SHA256 {
		t.Errorf("a changed file is still taken for the known one: %+v", b)
	}
	if err := os.WriteFile(kept, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b := open(); b.SHA256 != real.SHA256 {
		t.Errorf("with a broken note: %+v", b)
	}

	path = filepath.Join(t.TempDir(), "wrapper")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec "+real.Path+" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if b := open(); b.Version != real.Version {
		t.Errorf("a script that runs CRIU is version %d", b.Version)
	}
	if _, err := os.Stat(knownPath(cache, path)); err == nil {
		t.Error("a script was noted")
	}
}

// forge replaces a digest in the note at path.
func forge(t *testing.T, path, digest string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := bytes.Repeat([]byte("0"), len(digest))
	if err := os.WriteFile(path, bytes.ReplaceAll(data, []byte(digest), other), 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
