package engines

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// groupFile reads a file of a cgroup: of version 1 when the machine has its controller there, else of version 2.
func groupFile(t *testing.T, group, v1, v2 string) string {
	t.Helper()
	controller, _, _ := strings.Cut(v1, ".")
	file := filepath.Join("/sys/fs/cgroup", controller, group, v1)
	if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", controller)); err != nil {
		file = filepath.Join("/sys/fs/cgroup", group, v2)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(string(text))
}

func (e *engine) wantGroup(container, v1, want1, v2, want2 string) {
	e.t.Helper()
	group := e.do("inspect", "--format", "{{.State.CgroupPath}}", container)
	if got := groupFile(e.t, group, v1, v2); got != want1 && got != want2 {
		e.t.Errorf("%s (%s) is %q, not %q (%q)", v1, v2, got, want1, want2)
	}
}

// TestPodmanLimits sets limits, reads them from the kernel, changes them and reads what is used.
func TestPodmanLimits(t *testing.T) {
	e := newPodman(t)
	e.do("run", "-d", "--name", "limited", "--memory", "64m", "--memory-swap", "64m", "--memory-reservation", "32m", "--cpus", "0.5", "--cpu-shares", "512",
		"--pids-limit", "50", "--cpuset-cpus", "0", image, "sh", "-c", "while :; do sleep 0.05; done")
	e.wantGroup("limited", "memory.limit_in_bytes", "67108864", "memory.max", "67108864")
	e.wantGroup("limited", "memory.soft_limit_in_bytes", "33554432", "memory.low", "33554432")
	e.wantGroup("limited", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000")
	e.wantGroup("limited", "cpu.shares", "512", "cpu.weight", "20")
	e.wantGroup("limited", "pids.max", "50", "pids.max", "50")
	e.wantGroup("limited", "cpuset.cpus", "0", "cpuset.cpus", "0")
	e.want("yes", "exec", "limited", "sh", "-c", "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done 2>&1 | grep -q 'fork: Resource' && echo yes")

	e.do("update", "--memory", "96m", "--memory-swap", "96m", "--cpus", "0.25", "limited")
	e.wantGroup("limited", "memory.limit_in_bytes", "100663296", "memory.max", "100663296")
	e.wantGroup("limited", "cpu.cfs_quota_us", "25000", "cpu.max", "25000 100000")

	var stats []map[string]any
	out := e.do("stats", "--no-stream", "--format", "json", "limited")
	if err := json.Unmarshal([]byte(out), &stats); err != nil || len(stats) != 1 || stats[0]["name"] != "limited" {
		t.Fatalf("podman stats prints %s (%v)", out, err)
	}
	// podman's own book has the limit that the container was made with.
	if usage, _ := stats[0]["mem_usage"].(string); !strings.Contains(usage, "/ 67.11MB") {
		t.Errorf("the memory's limit is not in %q", usage)
	}
	if pids, _ := stats[0]["pids"].(string); pids == "0" || pids == "" {
		t.Errorf("the number of processes is %q", pids)
	}
	e.do("rm", "-f", "-t", "0", "limited")

	e.do("run", "-d", "--name", "hungry", "--memory", "16m", "--memory-swap", "16m", image, "sh", "-c", "tail -n 1 /dev/zero")
	e.want("137", "wait", "hungry")
}
