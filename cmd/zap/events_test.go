package main

import (
	"bufio"
	"encoding/json"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestEventsStats(t *testing.T) {
	l := withLimits(t)
	out := l.must("events", "--stats", "one")
	if !strings.HasPrefix(out, `{"type":"stats","id":"one","data":{"cpu":{"usage":{"total":`) || strings.Count(out, "\n") != 1 {
		t.Errorf("starts with %.100s", out)
	}
	var e struct {
		Data struct {
			CPU    struct{ Usage struct{ Total uint64 } }
			Memory struct {
				Usage struct{ Limit, Usage uint64 }
				Raw   map[string]uint64
			}
			Pids              struct{ Current, Limit uint64 }
			Hugetlb           map[string]any
			IntelRDT          map[string]any `json:"intel_rdt"`
			NetworkInterfaces []any          `json:"network_interfaces"`
		}
	}
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatal(err)
	}
	d := e.Data
	if d.CPU.Usage.Total == 0 || d.Memory.Usage.Limit != 32*mib || d.Memory.Usage.Usage == 0 || len(d.Memory.Raw) < 10 ||
		d.Pids.Current != 1 || d.Pids.Limit != 20 || d.Hugetlb == nil || d.IntelRDT == nil {
		t.Errorf("numbers %+v", d)
	}
	l.refused(1, "duration interval must be greater than 0", "events", "--interval", "0s", "one")
	l.refused(1, "does not exist", "events", "two")
	l.must("kill", "one", "KILL")
	l.until("one", "stopped")
	l.refused(1, "container with id one is not running", "events", "one")
}

// TestEventsOOM follows a container until it is removed. A process of it takes more memory than it may have.
func TestEventsOOM(t *testing.T) {
	l := newOCILab(t)
	l.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(16 * mib)), Swap: new(int64(16 * mib))}
	l.program(`read x < /proc/self/stat; sleep 1000; true`)
	l.start("one")
	cmd := l.command("events", "--interval", "20ms", "one")
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, 1<<20)
	wait := func(prefix string) {
		t.Helper()
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), prefix) {
				return
			}
		}
		t.Fatalf("events end without %s: %v", prefix, lines.Err())
	}
	wait(`{"type":"stats","id":"one","data":{`)
	if s := l.must("state", "one"); strings.Contains(s, "oom") {
		t.Errorf("state %s", s)
	}
	_, _, code := l.zap("exec", "one", "sh", "-c", "x=$(cat /dev/zero | tr '\\0' x)")
	if code == 0 {
		t.Error("what takes all memory ends well")
	}
	wait(`{"type":"oom","id":"one"}`)
	if s := l.must("state", "one"); !strings.Contains(s, `"oomKilled": true`) {
		t.Errorf("state %s", s)
	}
	l.must("delete", "--force", "one")
	for lines.Scan() { // the rest, to its end
		continue
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("events: %v", err)
	}
}
