package criu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDiagnose(t *testing.T) {
	const rlimit = "(00.000012) Error (criu/rlimit.c:17): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted\n"
	for _, c := range []struct{ name, log, cause, hint string }{
		{"empty", "", "", ""},
		{"only harmless", rlimit, "", ""},
		{"warnings do not count", "(00.1) Warn  (criu/seize.c:1): seize: nothing to see\n", "", ""},
		{
			"first real error",
			rlimit + "(00.010000)      7: Error (criu/sk-inet.c:137): inet: Unsupported proto 262 for socket 1f\n(00.02) Error (criu/cr-dump.c:2): Dumping FAILED.\n",
			"inet: Unsupported proto 262 for socket 1f", "mptcp",
		},
		{
			"hint from a later line",
			"(00.1) Error (criu/files.c:1): something odd\n(00.2) Error (criu/files-reg.c:2): File usr/bin/redis-server has bad size 17 (expect 18)\n",
			"something odd", "root file system",
		},
		{
			"a warning before a mere consequence",
			"(00.1) Warn  (compel/src/lib/infect.c:131): Unable to interrupt task: 999 (No such process)\n(00.2) Error (criu/cr-dump.c:2): Dumping FAILED.\n",
			"Unable to interrupt task: 999 (No such process)", "the process is gone",
		},
		{
			"a helper that loses CRIU",
			"(00.1) Error (criu/cgroup.c:1998): cg: cgroupd: recv req error: No such file or directory\n(00.2)      7: Error (criu/files-reg.c:1): Can't open file x\n",
			"Can't open file x", "root file system",
		},
		{"consequence when there is no more", rlimit + "(00.2) Error (criu/cr-dump.c:2): Dumping FAILED.\n", "Dumping FAILED.", ""},
		{"without a time", "Error (criu/crtools.c:1): command is required\n", "command is required", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Diagnose(strings.NewReader(c.log))
			if d.Cause != c.cause {
				t.Errorf("cause %q, want %q", d.Cause, c.cause)
			}
			if c.hint == "" && d.Hint != "" || !strings.Contains(strings.ToLower(d.Hint), c.hint) {
				t.Errorf("hint %q, want one with %q", d.Hint, c.hint)
			}
			if c.cause != "" && d.Place == "" && !strings.HasPrefix(c.log, "(00.1) Warn") {
				t.Error("no place in the source")
			}
		})
	}
}

func TestDiagnoseLongLine(t *testing.T) {
	log := "(00.1) Error (a.c:1): " + strings.Repeat("x", 200<<10) + "\n(00.2) Error (b.c:1): next\n"
	if d := Diagnose(strings.NewReader(log)); len(d.Cause) != 200<<10 {
		t.Errorf("cause of %d bytes, want the whole line", len(d.Cause))
	}
}

func TestLogPath(t *testing.T) {
	dir := t.TempDir()
	images, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	o := DumpOptions(1, images, images)
	if got := logPath(o); got != "" {
		t.Errorf("path %q of a log that is not there", got)
	}
	if err := os.WriteFile(filepath.Join(dir, DumpLog), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := logPath(o), filepath.Join(dir, DumpLog); got != want {
		t.Errorf("path %q, want %q", got, want)
	}
}

func FuzzDiagnose(f *testing.F) {
	f.Add("(00.1)   12: Error (a.c:1): b\nWarn  (c.c:1): d\n")
	f.Fuzz(func(t *testing.T, log string) {
		d := Diagnose(strings.NewReader(log))
		if d.Cause != "" && !strings.Contains(log, d.Cause) {
			t.Errorf("cause %q is not in the log", d.Cause)
		}
	})
}
