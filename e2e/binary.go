package e2e

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// modulePath is this module's.
const modulePath = "github.com/zap-migrate/zap"

// scratch is the directory for what all tests of one run share: the built programs, the root file systems.
var scratch struct {
	once sync.Once
	dir  string
	err  error
}

// Scratch answers with a directory that lives until RemoveScratch.
func Scratch(t testing.TB) string {
	t.Helper()
	scratch.once.Do(func() {
		if scratch.dir, scratch.err = os.MkdirTemp(workDir, "zap-e2e-shared-"); scratch.err == nil {
			scratch.err = errors.Join(os.Chmod(scratch.dir, 0o755), own(scratch.dir, ""))
		}
	})
	if scratch.err != nil {
		t.Fatal(scratch.err)
	}
	return scratch.dir
}

// RemoveScratch removes what Scratch made.
func RemoveScratch() error {
	if scratch.dir == "" {
		return nil
	}
	return os.RemoveAll(scratch.dir)
}

var (
	zapPath  = sync.OnceValue(func() string { return cmp.Or(os.Getenv("ZAP_BIN"), os.Getenv("ZAP")) })
	built    = map[string]error{}
	builtMux sync.Mutex
)

// Binary is the zap under test, built when the environment names none.
func Binary(t testing.TB) string {
	t.Helper()
	if path := zapPath(); path != "" {
		return path
	}
	return build(t, "zap", modulePath+"/cmd/zap")
}

// build builds a Go program once, without cgo, and answers with its path.
func build(t testing.TB, name, pkg string) string {
	t.Helper()
	builtMux.Lock()
	defer builtMux.Unlock()
	path := filepath.Join(Scratch(t), name)
	err, done := built[path]
	if !done {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", path, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if r := execute(ctx, cmd); r.Err != nil {
			t.Logf("go build %s: %v", pkg, r)
			err = r.Err
		}
		built[path] = err
	}
	if err != nil {
		t.Fatalf("build %s: %v", pkg, err)
	}
	return path
}
