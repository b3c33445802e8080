package main

import (
	"os"
	"strings"
	"testing"
)

// TestDryRun prints programs and makes nothing.
func TestDryRun(t *testing.T) {
	l := newOCILab(t)
	l.program("true")
	for verb, want := range map[string]string{"create": "accept4(<gate>", "run": `await "wait for start"`} {
		out := l.must(verb, "--dry-run", "--no-pivot", "--pid-file", "pid", "one")
		for _, want := range []string{want, "clone3(CLONE_NEWPID|SIGCHLD)", "# config.json: mounts[0]", `fsopen("proc", FSOPEN_CLOEXEC)`, `execve("/`, `mount(".", "/", NULL, MS_MOVE, NULL)`} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %s in\n%s", verb, want, out)
			}
		}
	}
	for _, name := range []string{l.root, l.bundle + "/pid"} {
		if _, err := os.Lstat(name); err == nil {
			t.Errorf("%s was made", name)
		}
	}
	l.spec.Mounts[0].Destination = "/proc/self"
	l.writeSpec()
	if _, errs, code := l.zap("create", "--dry-run", "one"); code == 0 || !strings.Contains(errs, "(config.json: mounts[0].destination)") {
		t.Errorf("exit code %d, %s", code, errs)
	}
	l.spec.Mounts[0].Destination = "/proc"
	l.program("sleep 1000")
	l.start("one")
	if _, errs, code := l.zap("run", "--dry-run", "one"); code == 0 || !strings.Contains(errs, "exist") {
		t.Errorf("exit code %d, %s", code, errs)
	}
}
