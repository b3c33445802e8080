package engines

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// number is how far a container of counting has come; -1 when it writes right now.
func (c *containerd) number(id string) int {
	n, err := strconv.Atoi(strings.TrimSpace(run("ctr", "task", "exec", "--exec-id", "n"+strconv.FormatInt(time.Now().UnixNano(), 36), id, "cat", "/count").Stdout))
	if err != nil {
		return -1
	}
	return n
}

// TestContainerdCheckpoint saves a task beside which it goes on, into containerd's own store, and restores it as another container.
func TestContainerdCheckpoint(t *testing.T) {
	c := newContainerd(t)
	c.start("saved", nil, "sh", "-c", counting)
	waitFor(t, "some numbers", func() bool { return c.number("saved") > 5 })
	must(t, "ctr", "task", "checkpoint", "--image-path", filepath.Join(t.TempDir(), "images"), "--work-path", filepath.Join(t.TempDir(), "work"), "saved")
	c.wantStatus("saved", "RUNNING")
	before := c.number("saved")
	waitFor(t, "it to count on", func() bool { return c.number("saved") > before })

	const checkpoint = "localhost/checkpoint:1"
	must(t, "ctr", "container", "checkpoint", "--task", "--rw", "--image", "saved", checkpoint)
	t.Cleanup(func() { run("ctr", "image", "rm", checkpoint) })
	before = max(before, c.number("saved"))
	must(t, "ctr", "task", "kill", "-s", "KILL", "saved")
	c.wantStatus("saved", "STOPPED")
	must(t, "ctr", "task", "rm", "saved")
	must(t, "ctr", "container", "rm", "saved")

	must(t, "ctr", "container", "restore", "--live", "--rw", "again", checkpoint)
	c.wantStatus("again", "RUNNING")
	waitFor(t, "it to count on", func() bool { return c.number("again") > before })
	must(t, "ctr", "task", "checkpoint", "--exit", "--image-path", filepath.Join(t.TempDir(), "images"), "again")
	c.wantStatus("again", "STOPPED")
}
