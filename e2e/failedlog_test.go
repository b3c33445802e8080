package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFailedLog makes CRIU fail, once in its dump and once in its restore: what it logged is where the error says, on the side where it failed.
func TestFailedLog(t *testing.T) {
	for _, tt := range []struct {
		phase  string
		log    string // has to be in CRIU's log
		failed func(s *scene) *Host
		spoil  func(t *testing.T, s *scene)
	}{
		{"source:Frozen", "Too many open files", func(s *scene) *Host { return s.alpha }, func(t *testing.T, s *scene) { s.starve(t) }},
		{"target:Restoring", "kept", func(s *scene) *Host { return s.beta }, func(t *testing.T, s *scene) {
			found, err := filepath.Glob(filepath.Join(s.beta.Root, s.pod.Name, "*", "kept"))
			if err != nil || len(found) != 1 {
				t.Fatalf("the pod's file on the target: %v, %v", found, err)
			}
			if err := os.Remove(found[0]); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.phase, func(t *testing.T) {
			tr := newTrip(t)
			s := &scene{trip: tr, t: t, server: tr.beta.servers[0], mode: "stop"}
			s.pod = Pod{
				Name: tr.PodName("failed"), Rootfs: ShellRootfs(t), Number: 82,
				Args: []string{"/bin/sh", "-c", "exec 3>/kept; exec sleep 31536000"},
			}
			tr.alpha.RunPod(t, s.pod)
			WaitFor(t, 10*time.Second, "the pod's program", func() bool { return podProcess(t) != 0 })
			s.stopAt(tt.phase)
			tt.spoil(t, s)
			s.goOn()
			r := s.move.Wait()
			if r.Code != 4 {
				t.Fatalf("zap migrate ended with code %d: %v", r.Code, r)
			}
			host := tt.failed(s)
			logs, err := filepath.Glob(filepath.Join(host.Root, ".failed", s.pod.Name+"-*.log"))
			if err != nil || len(logs) != 1 {
				t.Fatalf("logs on %s: %v, %v; zap migrate says %v", host.Name, logs, err, r)
			}
			if !strings.Contains(s.move.Final.Error, "log "+logs[0]) {
				t.Errorf("the error does not name %s: %s", logs[0], s.move.Final.Error)
			}
			text, err := os.ReadFile(logs[0])
			if err != nil || !strings.Contains(string(text), "Error (") || !strings.Contains(string(text), tt.log) {
				t.Errorf("CRIU's log (%v): %s", err, text)
			}
			if podStatus(t, tr.alpha, s.pod.Name) != "running" {
				t.Error("the pod does not go on")
			}
			tr.alpha.Zap(t, "pod", "rm", "--force", s.pod.Name)
			tr.wantNothingLeft(t, tr.alpha)
			tr.wantNothingLeft(t, tr.beta)
		})
	}
}

// podProcess is the program of the test's pod; 0 when there is none.
func podProcess(t *testing.T) int {
	t.Helper()
	for _, p := range mustDescendants(t) {
		if p.Args == "sleep 31536000" {
			return p.Pid
		}
	}
	return 0
}

// starve takes from the source's CRIU what it could open files with.
func (s *scene) starve(t *testing.T) {
	t.Helper()
	none, starved := unix.Rlimit{Cur: 8, Max: 8}, false
	for _, p := range mustDescendants(t) {
		if p.Comm == "criu" && p.PPid == s.move.Pid {
			starved = true
			if err := unix.Prlimit(p.Pid, unix.RLIMIT_NOFILE, &none, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !starved {
		t.Fatal("the source has no CRIU")
	}
}
