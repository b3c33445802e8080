package engines

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// leftovers is what containers have left on the machine: processes, mounts, cgroups, namespaces, records of zap.
func leftovers() []string {
	var left []string
	comms, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range comms {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		comm, err := os.ReadFile(path)
		name := strings.TrimSpace(string(comm))
		if err != nil || pid == 1 || pid == os.Getpid() || slices.Contains([]string{"containerd", "podman", "podman pause"}, name) {
			continue
		}
		left = append(left, "process "+strconv.Itoa(pid)+" "+name)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if _, err := os.Stat(f[1]); err == nil && (strings.Contains(f[1], "/merged") || strings.Contains(f[1], "/rootfs") || f[2] == "nsfs") {
			left = append(left, "mount "+f[1])
		}
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/libpod_parent/*/")
	more, _ := filepath.Glob("/sys/fs/cgroup/libpod_parent/*/")
	theirs, _ := filepath.Glob("/sys/fs/cgroup/*/default/*/")
	records, _ := filepath.Glob("/var/lib/zap/*")
	shims, _ := filepath.Glob("/run/containerd/runc/*/*")
	for _, path := range slices.Concat(groups, more, theirs, records, shims) {
		if name := filepath.Base(path); name != "conmon" && name != ".criu" && name != ".network" { // what is known of the kernel is kept
			left = append(left, path)
		}
	}
	return left
}

// wantNothingLeft waits until containers have left nothing: conmon and the engines' clean-up end after the container.
func wantNothingLeft(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); len(leftovers()) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("left behind:\n%s", strings.Join(leftovers(), "\n"))
			return
		}
	}
}
