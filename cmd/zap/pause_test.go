package main

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// statusOf is the status that `zap state` prints.
func (l *ociLab) statusOf(id string) string {
	l.t.Helper()
	var s struct{ Status string }
	if err := json.Unmarshal([]byte(l.must("state", id)), &s); err != nil {
		l.t.Fatal(err)
	}
	return s.Status
}

// refused wants zap to fail with an exit code and a text.
func (l *ociLab) refused(code int, text string, args ...string) {
	l.t.Helper()
	if _, errs, got := l.zap(args...); got != code || !strings.Contains(errs, text) {
		l.t.Errorf("%v: exit code %d, %q; want %d, %q", args, got, errs, code, text)
	}
}

func TestPauseAndResume(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	l.start("one")
	l.refused(1, "container not paused", "resume", "one")
	l.must("pause", "one")
	if s := l.statusOf("one"); s != "paused" {
		t.Errorf("status %s after pause", s)
	}
	l.refused(1, "container not running", "pause", "one")
	l.refused(1, "paused", "start", "one")
	l.refused(1, "not stopped: paused", "delete", "one")
	l.refused(255, "cannot exec in a paused container", "exec", "one", "true")
	l.refused(1, "does not exist", "pause", "two")
	l.refused(1, "does not exist", "resume", "two")

	// What is started all the same waits for the resume.
	waiting := l.command("exec", "--ignore-paused", "one", "true")
	if err := waiting.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	l.must("resume", "one")
	if err := waiting.Wait(); err != nil {
		t.Errorf("exec --ignore-paused: %v", err)
	}
	if s := l.statusOf("one"); s != "running" {
		t.Errorf("status %s after resume", s)
	}

	l.must("pause", "one")
	l.must("kill", "one", "TERM") // waits in the queue, and is no error
	if s := l.statusOf("one"); s != "paused" {
		t.Errorf("status %s after a TERM", s)
	}
	l.must("kill", "one", "KILL")
	l.until("one", "stopped")
	l.must("kill", "--all", "one", "0") // engines don't want to hear of it
	l.refused(1, "container not running", "pause", "one")
	l.must("delete", "one")
}

// until waits for a status.
func (l *ociLab) until(id, status string) {
	l.t.Helper()
	for end := time.Now().Add(20 * time.Second); l.statusOf(id) != status; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("%s does not become %s", id, status)
		}
	}
}

// TestPauseCreated pauses a container that waits for its start: it becomes created again.
func TestPauseCreated(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	if err := l.command("create", "--bundle", l.bundle, "one").Run(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.command("delete", "--force", "one").Run() })
	l.must("pause", "one")
	if s := l.statusOf("one"); s != "paused" {
		t.Errorf("status %s after pause", s)
	}
	l.refused(1, "paused", "start", "one")
	l.must("resume", "one")
	if s := l.statusOf("one"); s != "created" {
		t.Errorf("status %s after resume", s)
	}
	l.must("start", "one")
	l.must("pause", "one")
	l.must("delete", "--force", "one")
}

func TestPs(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000 & sleep 1000; true")
	l.start("one")
	var pids []int
	for end := time.Now().Add(20 * time.Second); len(pids) != 3; time.Sleep(time.Millisecond) {
		if err := json.Unmarshal([]byte(l.must("ps", "--format", "json", "one")), &pids); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatalf("processes %v", pids)
		}
	}
	if _, err := exec.LookPath("ps"); err != nil {
		t.Skip("needs ps for the table")
	}
	lines := strings.Split(strings.TrimSpace(l.must("ps", "one")), "\n")
	if len(lines) != 4 || !strings.Contains(lines[0], "PID") {
		t.Errorf("table %q", lines)
	}
	lines = strings.Split(strings.TrimSpace(l.must("ps", "one", "-o", "pid,args", "-e")), "\n")
	if len(lines) != 4 || strings.Fields(lines[1])[0] != strconv.Itoa(pids[0]) {
		t.Errorf("table with options %q, processes %v", lines, pids)
	}
	l.refused(1, "invalid format option", "ps", "-f", "yaml", "one")
	l.must("kill", "one", "KILL")
	l.until("one", "stopped")
	if out := l.must("ps", "-f", "json", "one"); strings.TrimSpace(out) != "[]" {
		t.Errorf("after the end: %q", out)
	}
	if lines := strings.Split(strings.TrimSpace(l.must("ps", "one")), "\n"); len(lines) != 1 {
		t.Errorf("table after the end: %q", lines)
	}
}

// TestKillWithoutPidNamespace: nothing else would end the others when the first process is gone.
func TestKillWithoutPidNamespace(t *testing.T) {
	l := newOCILab(t)
	l.spec.Linux.Namespaces = slices.DeleteFunc(l.spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool {
		return ns.Type == specs.PIDNamespace
	})
	l.program("sleep 1000 & echo $$; sleep 1000; true")
	l.start("one")
	var pids []int
	list := func() []int {
		pids = nil
		if err := json.Unmarshal([]byte(l.must("ps", "--format", "json", "one")), &pids); err != nil {
			t.Fatal(err)
		}
		return pids
	}
	wait := func(n int) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); len(list()) != n; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("processes %v, want %d", pids, n)
			}
		}
	}
	wait(3)
	var s struct{ Pid int }
	if err := json.Unmarshal([]byte(l.must("state", "one")), &s); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(s.Pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.until("one", "stopped")
	wait(2)
	l.must("kill", "one", "KILL")
	wait(0)
}
