package cgroup

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestSet gives limits to a group that a process is in already, as a pod that has arrived gets them.
func TestSet(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		offers(t, trees, "memory", "pids")
		c := group(t, trees, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(50))}})
		p := start(t, c, "read x")
		if limit, err := c.MemoryLimit(); limit != -1 || err != nil {
			t.Errorf("before: %d, %v", limit, err)
		}
		if err := c.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20))}}); err != nil {
			t.Fatal(err)
		}
		if limit, err := c.MemoryLimit(); limit != 64<<20 || err != nil {
			t.Errorf("after: %d, %v", limit, err)
		}
		file{"pids", "pids.max", "pids.max", "50", "50"}.check(t, c) // was not mentioned
		if err := unix.Kill(p.Process.Pid, 0); err != nil {
			t.Errorf("the process: %v", err)
		}
	})
}

// TestSetTooLittle sets a v1 limit that the processes are above already.
func TestSetTooLittle(t *testing.T) {
	layouts(t, func(t *testing.T, trees []*hierarchy) {
		offers(t, trees, "memory")
		c := group(t, trees, nil)
		if c.unifiedOnly() {
			t.Skip("v2 kills processes instead, which MemoryUsage is there to avoid")
		}
		p := start(t, c, "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo have; read y; echo $x > /dev/null")
		if line := p.line(t); line != "have" {
			t.Fatalf("the child says %q", line)
		}
		err := c.Set(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(1 << 20))}})
		if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "linux.resources.memory") {
			t.Errorf("set 1 MiB: %v", err)
		}
		usage, uerr := c.MemoryUsage()
		if uerr != nil || usage < 1<<20 {
			t.Errorf("it uses %s, %v", strconv.FormatInt(usage, 10), uerr)
		}
	})
}
