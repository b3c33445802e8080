package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPrintChecks(t *testing.T) {
	rows := []checkRow{
		{Name: "kernel", Status: checkOK, Value: "Linux 6.18"},
		{Name: "criu", Status: checkFail, Value: "two\nlines", Hint: "install it"},
	}
	var out bytes.Buffer
	if err := printChecks(&out, rows, "text"); err != nil {
		t.Fatal(err)
	}
	want := "ok    kernel  Linux 6.18\nfail  criu    two lines\n                install it\n\n1 ok, 0 to look at, 1 that stop zap\n"
	if out.String() != want {
		t.Errorf("text is\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	if err := printChecks(&out, rows, "json"); err != nil {
		t.Fatal(err)
	}
	var back []map[string]string
	if err := json.Unmarshal(out.Bytes(), &back); err != nil {
		t.Fatal(err)
	}
	if back[0]["status"] != "ok" || back[1]["hint"] != "install it" || back[1]["value"] != "two\nlines" {
		t.Errorf("JSON is %s", out.String())
	}
	if _, there := back[0]["hint"]; there {
		t.Error("an empty hint is printed")
	}
}

func TestKernelRow(t *testing.T) {
	for release, want := range map[string]checkStatus{
		"6.18.44-fc": checkOK, "5.16.0": checkOK, "10.0": checkOK,
		"5.15.0-generic": checkWarn, "5.12.2": checkWarn,
		"5.11.9": checkFail, "5.10.0-28-amd64": checkFail, "4.19.1": checkFail, "strange": checkFail,
	} {
		if r := kernelRow(release, "x86_64"); r.Status != want || (want != checkOK) != (r.Hint != "") {
			t.Errorf("Linux %s: %+v, want %s", release, r, want)
		}
	}
}

func TestCapabilitiesRow(t *testing.T) {
	const all = ^uint64(0)
	for _, c := range []struct {
		effective uint64
		want      checkStatus
		value     string
	}{
		{all, checkOK, "all"},
		{all &^ (1 << unix.CAP_SYS_RESOURCE), checkWarn, "CAP_SYS_RESOURCE"},
		{all &^ (1<<unix.CAP_SYS_RESOURCE | 1<<unix.CAP_MKNOD), checkWarn, "CAP_SYS_RESOURCE, CAP_MKNOD"},
		{all &^ (1<<unix.CAP_SYS_RESOURCE | 1<<unix.CAP_NET_ADMIN), checkFail, "without CAP_NET_ADMIN"},
		{0, checkFail, "CAP_SYS_ADMIN"},
	} {
		if r := capabilitiesRow(c.effective); r.Status != c.want || !strings.Contains(r.Value, c.value) {
			t.Errorf("capabilities %x: %+v, want %s with %q", c.effective, r, c.want, c.value)
		}
	}
}

// runCheck runs the verb and returns its rows.
func runCheck(t *testing.T) (rows []checkRow, err error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces and runs CRIU")
	}
	t.Setenv("TMPDIR", t.TempDir())
	cmd := newCheckCommand(&globals{root: filepath.Join(t.TempDir(), "root")})
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	cmd.SetArgs([]string{"--format", "json"})
	cmd.SetContext(t.Context())
	err = cmd.Execute()
	if jerr := json.Unmarshal(out.Bytes(), &rows); jerr != nil {
		t.Fatalf("output %q: %v", out.String(), jerr)
	}
	if left, lerr := os.ReadDir(os.Getenv("TMPDIR")); lerr != nil || len(left) != 0 {
		t.Errorf("the checks left %v, %v", left, lerr)
	}
	return rows, err
}

func row(t *testing.T, rows []checkRow, name string) checkRow {
	t.Helper()
	for _, r := range rows {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("no row %q", name)
	return checkRow{}
}

func TestCheckThisMachine(t *testing.T) {
	rows, err := runCheck(t)
	failed := false
	seen := make(map[string]bool)
	for _, r := range rows {
		if seen[r.Name] || r.Value == "" {
			t.Errorf("row %+v is there twice or has no value", r)
		}
		seen[r.Name] = true
		switch r.Status {
		case checkOK:
		case checkFail:
			failed = true
		case checkWarn:
			if r.Hint == "" {
				t.Errorf("row %+v has no hint", r)
			}
		default:
			t.Errorf("row %+v has no status", r)
		}
	}
	var exit *exitError
	if failed != (errors.As(err, &exit) && exit.code == 1) {
		t.Errorf("the verb ended with %v; rows failed: %v", err, failed)
	}
	trial := row(t, rows, "trial dump and restore")
	if trial.Status == checkOK && !strings.Contains(trial.Value, "restored in") {
		t.Errorf("trial %+v says no times", trial)
	}
	if binary := row(t, rows, "criu"); binary.Status == checkOK && !strings.Contains(binary.Value, "sha256 ") {
		t.Errorf("row %+v has no checksum", binary)
	}
}

func TestCheckWithoutCriu(t *testing.T) {
	t.Setenv("ZAP_CRIU", "/bin/false")
	rows, err := runCheck(t)
	var exit *exitError
	if !errors.As(err, &exit) || exit.code != 1 {
		t.Errorf("the verb ended with %v, want exit code 1", err)
	}
	if r := row(t, rows, "criu"); r.Status != checkFail || !strings.Contains(r.Hint, "make deps") {
		t.Errorf("row %+v, want a failure that says what to do", r)
	}
}

func TestCheckFormat(t *testing.T) {
	cmd := newCheckCommand(&globals{root: t.TempDir()})
	cmd.SetArgs([]string{"--format", "xml"})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "xml") {
		t.Errorf("format xml: %v", err)
	}
}
