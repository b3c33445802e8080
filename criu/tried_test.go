package criu

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTried wants one trial for a binary on a boot, and another one for another binary.
func TestTried(t *testing.T) {
	b := *realCRIU(t)
	cache := filepath.Join(t.TempDir(), "cache")
	if err := Tried(t.Context(), &b, cache); err != nil {
		t.Fatal(err)
	}
	b.Path = "/nowhere/at/all" // what would be run now
	if err := Tried(t.Context(), &b, cache); err != nil {
		t.Errorf("CRIU was tried again: %v", err)
	}
	left, err := os.ReadDir(cache)
	if err != nil || len(left) != 2 {
		t.Errorf("the cache holds %v, %v, not the kernel facts and one outcome", left, err)
	}
	b.SHA256 = "another"
	var trial *TrialError
	if err := Tried(t.Context(), &b, cache); !errors.As(err, &trial) || trial.Step != TrialStart {
		t.Errorf("another CRIU, which is not there: %v", err)
	}
	if err := Tried(t.Context(), &b, cache); !errors.As(err, &trial) {
		t.Errorf("a failure was kept as a success: %v", err)
	}
}

// TestDiagnoseUncollected reads the log of a CRIU that does not know that UDP-Lite is gone from Linux 7.1, and says so at its lowest level only.
func TestDiagnoseUncollected(t *testing.T) {
	log := "(00.01) Sockects collect procedure family AF_INET proto IPPROTO_RAW: -2\n" +
		"(00.02) Sockects collect procedure family AF_INET proto IPPROTO_UDPLITE: -2\n(00.03) Error (criu/cr-dump.c:2098): Dumping FAILED.\n"
	if d := Diagnose(strings.NewReader(log)); !strings.Contains(d.Cause, "IPPROTO_UDPLITE: -2") || !strings.Contains(d.Hint, "4.3 or newer") {
		t.Errorf("%+v", d)
	}
	log = "(00.02) Sockects collect procedure family AF_INET proto IPPROTO_UDPLITE: -2\n(00.03) Error (criu/x.c:1): Something else\n"
	if d := Diagnose(strings.NewReader(log)); d.Cause != "Something else" {
		t.Errorf("%+v", d)
	}
}
