package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
	"github.com/zap-migrate/zap/pod"
)

// usage is what one move has cost.
type usage struct {
	cpu   time.Duration // of every process of the move, on both hosts
	wire  int64         // bytes that left the source's cable
	peaks map[string]int64
}

// meter measures a move from outside, the same way for both kinds. Processor time is that of a cgroup in which every command
// of the hosts runs, and of the pod's cgroup, where CRIU restores it. So it includes what the kernel does for these
// processes, when they end too.
type meter struct {
	t    testing.TB
	name string // of the cgroup that everything is below
	dir  string // where it is

	from    *e2e.Host
	cpu     time.Duration
	wire    int64
	sampler *sampler
}

// cpuRoot is where cgroups count processor time, and the file that does it, in units of unit.
func cpuRoot() (root, file string, unit time.Duration) {
	if _, err := os.Stat("/sys/fs/cgroup/cpuacct/cpuacct.usage"); err == nil {
		return "/sys/fs/cgroup/cpuacct", "cpuacct.usage", time.Nanosecond
	}
	return "/sys/fs/cgroup", "cpu.stat", time.Microsecond
}

// newMeter makes the cgroup. It must be called before the lab is made, which has processes in it until its end.
func newMeter(t testing.TB) *meter {
	root, _, _ := cpuRoot()
	m := &meter{t: t, name: fmt.Sprintf("zap-bench-%d", os.Getpid())}
	m.dir = filepath.Join(root, m.name)
	t.Cleanup(m.remove)
	if err := os.MkdirAll(filepath.Join(m.dir, "commands"), 0o755); err != nil {
		t.Fatal(err)
	}
	return m
}

// remove removes the cgroup, for which a large process that was killed takes its time, and what runc made of that name for
// its containers in the other hierarchies.
func (m *meter) remove() {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var left []string
		found, _ := filepath.Glob("/sys/fs/cgroup/*/" + m.name)
		for _, dir := range append(found, "/sys/fs/cgroup/"+m.name) {
			below, _ := os.ReadDir(dir)
			for _, entry := range below {
				if entry.IsDir() {
					syscall.Rmdir(filepath.Join(dir, entry.Name()))
				}
			}
			if err := syscall.Rmdir(dir); err != nil && !os.IsNotExist(err) {
				left = append(left, dir)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			m.t.Errorf("remove cgroups %v: still busy", left)
			return
		}
	}
}

// wrap is what to put before a command to have it counted.
func (m *meter) wrap() []string {
	return []string{"sh", "-c", `echo $$ > ` + filepath.Join(m.dir, "commands", "cgroup.procs") + ` && exec "$@"`, "sh"}
}

// cpuOf is the processor time of a cgroup and of those below, living and gone.
func cpuOf(dir string) (time.Duration, error) {
	_, file, unit := cpuRoot()
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	text := strings.TrimPrefix(strings.TrimSpace(string(data)), "usage_usec ")
	text, _, _ = strings.Cut(text, "\n")
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", filepath.Join(dir, file), err)
	}
	return time.Duration(n) * unit, nil
}

func (m *meter) mustCPU() time.Duration {
	m.t.Helper()
	d, err := cpuOf(m.dir)
	if err != nil {
		m.t.Fatal(err)
	}
	return d
}

// begin starts to measure a move away from a host.
func (m *meter) begin(from *e2e.Host) {
	m.t.Helper()
	m.from, m.wire, m.cpu = from, sentBy(m.t, from), m.mustCPU()
}

// beginZap also watches zap's processes and the cgroups of the pod that it moves.
func (m *meter) beginZap(from, to *e2e.Host, name string, watched map[string]int) {
	m.t.Helper()
	root, _, _ := cpuRoot()
	m.sampler = startSampler(root+pod.CgroupPath(from.Root, name), watched)
	m.begin(from)
}

// end answers with what the move has cost since begin.
func (m *meter) end() usage {
	m.t.Helper()
	return usage{cpu: m.mustCPU() - m.cpu, wire: sentBy(m.t, m.from) - m.wire}
}

// endZap adds the pod's cgroups.
func (m *meter) endZap(to *e2e.Host, name string) usage {
	m.t.Helper()
	root, _, _ := cpuRoot()
	u := m.end()
	u.cpu += m.sampler.stop()
	there, err := cpuOf(root + pod.CgroupPath(to.Root, name))
	if err != nil {
		m.t.Fatal(err)
	}
	u.cpu += there
	u.peaks = m.sampler.peaks
	return u
}

// sentBy is how many bytes have left a host over its cable.
func sentBy(t testing.TB, h *e2e.Host) int64 {
	t.Helper()
	r := h.Try("ip", "-j", "-s", "link", "show", "up0")
	var links []struct {
		Stats64 struct{ TX struct{ Bytes int64 } } `json:"stats64"`
	}
	if r.Err != nil || json.Unmarshal([]byte(r.Stdout), &links) != nil || len(links) != 1 {
		t.Fatalf("read counters of %s: %v", h.Name, r)
	}
	return links[0].Stats64.TX.Bytes
}

// sampler reads, every few milliseconds, what is gone when a move is over.
type sampler struct {
	quit, done  chan struct{}
	cgroup      string
	first, last time.Duration
	watched     map[string]int   // pids by what they are
	peaks       map[string]int64 // bytes
	join        chan watch
}

// watch is one more process to look at.
type watch struct {
	what string
	pid  int
}

func startSampler(cgroup string, watched map[string]int) *sampler {
	s := &sampler{
		quit: make(chan struct{}), done: make(chan struct{}), cgroup: cgroup, watched: watched, peaks: map[string]int64{}, join: make(chan watch, 8),
	}
	s.first, _ = cpuOf(cgroup)
	s.last = s.first
	go s.run()
	return s
}

func (s *sampler) run() {
	defer close(s.done)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if d, err := cpuOf(s.cgroup); err == nil {
			s.last = d
		}
		for what, pid := range s.watched {
			s.peaks[what] = max(s.peaks[what], peakMemory(pid))
		}
		select {
		case <-s.quit:
			return
		case w := <-s.join:
			s.watched[w.what] = w.pid
		case <-tick.C:
		}
	}
}

// stop answers with the processor time of the cgroup since the start.
func (s *sampler) stop() time.Duration {
	close(s.quit)
	<-s.done
	return s.last - s.first
}

// peakMemory is the most memory that a process has had resident, 0 when it is gone.
func peakMemory(pid int) int64 {
	data, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	_, rest, _ := strings.Cut(string(data), "VmHWM:")
	line, _, _ := strings.Cut(rest, "\n")
	kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(line), " kB"), 10, 64)
	return kib << 10
}

// forgetPeak makes a process's peak what it has now.
func forgetPeak(pid int) { os.WriteFile("/proc/"+strconv.Itoa(pid)+"/clear_refs", []byte("5"), 0) }
