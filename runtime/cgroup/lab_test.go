package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// patience bounds every wait of the tests.
const patience = 20 * time.Second

var serial atomic.Int64

// layouts are the trees that a test runs on: all of the host's, and of a hybrid host v1 and v2 each for itself as well.
func layouts(t *testing.T, test func(t *testing.T, trees []*hierarchy)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes cgroups")
	}
	all, err := host()
	if err != nil {
		t.Fatal(err)
	}
	parts := map[bool][]*hierarchy{}
	for _, h := range all {
		parts[h.unified] = append(parts[h.unified], h)
	}
	t.Run(modeOf(all), func(t *testing.T) { test(t, all) })
	if modeOf(all) == "hybrid" {
		t.Run("v1 of hybrid", func(t *testing.T) { test(t, parts[false]) })
		t.Run("v2 of hybrid", func(t *testing.T) { test(t, parts[true]) })
	}
}

// uniquePath returns a path that no other test has.
func uniquePath() string {
	return fmt.Sprintf("/zap/test-%d-%d", os.Getpid(), serial.Add(1))
}

// group makes a group that is gone after the test, with whoever is in it.
func group(t *testing.T, trees []*hierarchy, res *specs.LinuxResources) *Cgroup {
	t.Helper()
	c, err := createIn(trees, uniquePath(), res)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Kill(context.Background()); err != nil {
			t.Error(err)
		}
		if err := c.Delete(context.Background()); err != nil {
			t.Error(err)
		}
		for _, dir := range c.Paths() {
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left behind: %v", dir, err)
			}
		}
	})
	return c
}

// child is a shell in a group.
type child struct {
	*exec.Cmd
	out *bufio.Reader
	end *os.File // the read end of its standard output
}

// start runs a shell script in a group, which it enters by itself through the join files.
func start(t *testing.T, c *Cgroup, script string) *child {
	t.Helper()
	join := ""
	for _, f := range c.JoinFiles() {
		join += "echo 0 > '" + f + "' || exit 99\n"
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &child{Cmd: exec.Command("sh", "-c", join+"echo joined\n"+script), out: bufio.NewReader(r), end: r}
	p.Stdout, p.Stderr = w, os.Stderr
	if _, err := p.StdinPipe(); err != nil { // never written to: `read x` waits for ever
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(func() {
		_ = c.Kill(context.Background()) // the children of the shell too
		_ = p.Process.Kill()
		_ = p.Wait()
		r.Close()
	})
	if line := p.line(t); line != "joined" {
		t.Fatalf("the child says %q", line)
	}
	return p
}

// line reads the next line that the child writes.
func (p *child) line(t *testing.T) string {
	t.Helper()
	if err := p.end.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatalf("read from the child: %v", err)
	}
	return strings.TrimSuffix(line, "\n")
}

// drain throws away what the child has written so far and returns how much that was.
func (p *child) drain(t *testing.T) int {
	t.Helper()
	n := p.out.Buffered()
	_, _ = p.out.Discard(n)
	fd := int(p.end.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<16)
	for {
		m, err := unix.Read(fd, buf)
		if err != nil || m == 0 {
			return n
		}
		n += m
	}
}

// wait waits for the child to end and returns its status.
func (p *child) wait(t *testing.T) *os.ProcessState {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- p.Wait() }()
	select {
	case <-done:
		return p.ProcessState
	case <-time.After(patience):
		t.Fatal("the child does not end")
		return nil
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: it does not come to that", what)
		}
	}
}

// procs is Procs for tests.
func procs(t *testing.T, c *Cgroup) []int {
	t.Helper()
	pids, err := c.Procs()
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

// content returns what a file of the group holds in the hierarchy of a controller.
func content(t *testing.T, c *Cgroup, controller, file string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.Paths()[controller], file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func ptr[T any](v T) *T { return &v }
