package cgroup

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestSumOf(t *testing.T) {
	const text = "cache 100\nrss 5\nshmem 7\ntotal_cache 1000\ntotal_rss 50\ntotal_shmem 70\nanon 1\n"
	for _, c := range []struct {
		names []string
		want  int64
	}{{[]string{"total_rss", "total_shmem"}, 120}, {[]string{"anon", "shmem"}, 8}, {[]string{"none"}, 0}, {nil, 0}} {
		if got, err := sumOf(text, c.names...); err != nil || got != c.want {
			t.Errorf("%v: got %d, %v, want %d", c.names, got, err, c.want)
		}
	}
	if _, err := sumOf("anon x\n", "anon"); err == nil {
		t.Error("anon x: no error")
	}
}

func TestMemoryUsage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes cgroups")
	}
	const path, size = "/zap/test-usage", 32 << 20
	c, err := Create(fmt.Sprintf("%s-%d", path, os.Getpid()), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Delete(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if c.tree("memory") == nil {
		if _, err := os.Stat(c.UnifiedDir() + "/memory.stat"); err != nil {
			t.Skip("needs a memory controller")
		}
	}
	before, err := c.MemoryUsage()
	if err != nil || before > size/4 {
		t.Fatalf("an empty group uses %d bytes: %v", before, err)
	}
	// The shell keeps the whole text in a variable, when it has been told to go on.
	cmd := exec.Command("sh", "-c", fmt.Sprintf("read go; x=$(head -c %d /dev/zero | tr '\\0' x); echo ready; read end", size))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	if err := c.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	io.WriteString(in, "\n")
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("shell says %q: %v", line, err)
	}
	if after, err := c.MemoryUsage(); err != nil || after < before+size*3/4 || after > before+16*size {
		t.Errorf("with %d bytes more it uses %d instead of %d: %v", size, after, before, err)
	}
}
