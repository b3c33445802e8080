package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// footprint is what a process uses.
type footprint struct {
	descriptors int
	threads     int
	private     int64 // bytes of memory that are its own
}

func footprintOf(t *testing.T, pid int) footprint {
	t.Helper()
	dir := "/proc/" + strconv.Itoa(pid)
	fds, err := readDirNames(dir + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := readDirNames(dir + "/task")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(dir + "/smaps_rollup")
	if err != nil {
		t.Fatal(err)
	}
	f := footprint{descriptors: len(fds), threads: len(tasks)}
	for line := range bytes.Lines(data) {
		fields := strings.Fields(string(line))
		if len(fields) == 3 && strings.HasPrefix(fields[0], "Private_") {
			kib, _ := strconv.ParseInt(fields[1], 10, 64)
			f.private += kib << 10
		}
	}
	return f
}

// machineMounts counts all mounts of the machine.
func machineMounts(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Count(data, []byte("\n"))
}

// moves is how often the endurance test moves its pod.
func moves(t *testing.T) int {
	t.Helper()
	if text := os.Getenv("ZAP_E2E_MOVES"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("ZAP_E2E_MOVES=%s: not a number of moves", text)
		}
		return n
	}
	if testing.Short() {
		return 10
	}
	return 200
}

// TestEndurance moves one pod to and fro, many times in a row, under a client. Nothing may fail and nothing may grow: not
// the servers' memory, descriptors and threads, nor what the hosts have.
func TestEndurance(t *testing.T) {
	const warm = 6 // moves after which everything is as it will stay
	tr := newTrip(t)
	pod := Pod{Name: tr.PodName("endure"), Rootfs: RedisRootfs(t), Number: 57, Args: RedisArgs()}
	tr.alpha.RunPod(t, pod)
	counter := NewCounter(t, tr.client, pod.Addr(6379), "n", 2*time.Millisecond)

	total := max(moves(t), warm+2)
	total += total % 2 // ends where it began
	var settled Inventory
	settledPrints := map[*Host]footprint{}
	var settledMounts, settledJournal int
	var pauses []float64
	for i := range total {
		from, to := tr.alpha, tr.beta
		if i%2 == 1 {
			from, to = to, from
		}
		pauses = append(pauses, from.Migrate(t, pod.Name, to).PauseMS)
		counter.WantProgress(t)
		if i+1 == warm {
			tr.wantNothingLeft(t, from)
			settled = tr.alpha.Inventory(t)
			settledMounts, settledJournal = machineMounts(t), stateSize(t, tr.alpha)
			for _, h := range tr.Hosts {
				settledPrints[h] = footprintOf(t, h.servers[0].Pid)
			}
		}
	}

	tr.wantNothingLeft(t, tr.beta)
	tr.alpha.WantSame(t, settled)
	if now := machineMounts(t); now > settledMounts {
		t.Errorf("the machine has %d mounts, had %d", now, settledMounts)
	}
	if now := stateSize(t, tr.alpha); now > settledJournal+settledJournal/4+4096 {
		t.Errorf("the pod's state has %d bytes, had %d", now, settledJournal)
	}
	for _, h := range tr.Hosts {
		now, was := footprintOf(t, h.servers[0].Pid), settledPrints[h]
		t.Logf("zap serve on %s: %+v, was %+v", h.Name, now, was)
		if now.descriptors > was.descriptors || now.threads > was.threads+4 || now.private > was.private+16<<20 {
			t.Errorf("zap serve on %s has grown: %+v, was %+v", h.Name, now, was)
		}
	}
	r := counter.Stop()
	if r.Err != nil {
		t.Errorf("after %d replies: %v", r.Count, r.Err)
	}
	t.Logf("%d moves, %d replies, the worst after %v, pauses from %.1f to %.1f ms", total, r.Count, r.Worst.Took, slices.Min(pauses), slices.Max(pauses))
	tr.alpha.Zap(t, "pod", "rm", "--force", pod.Name)
	tr.wantNothingLeft(t, tr.alpha)
}

// stateSize is the size of what the host knows of its pods, their layers and logs apart.
func stateSize(t *testing.T, h *Host) int {
	t.Helper()
	size := 0
	for _, pattern := range []string{"*/state.json", "*/journal", "*/lock"} {
		found, err := filepath.Glob(filepath.Join(h.Root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			if info, err := os.Stat(path); err == nil {
				size += int(info.Size())
			}
		}
	}
	return size
}
