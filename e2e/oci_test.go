package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/spec"
)

// busyboxRootfs has busybox under the names of all its applets.
func busyboxRootfs(t *testing.T) string {
	return MakeRootfs(t, "busybox", func(r *Rootfs) error { return r.busybox() })
}

// container is a container that an engine makes with the OCI verbs, without a supervisor.
type container struct {
	*trip
	t      *testing.T
	name   string
	bundle string
	stdio  [3]*os.File // nil: /dev/null
	flags  []string    // of zap run
}

// newContainer writes a bundle on alpha: what `zap spec` writes, with the program and the changes of the test, and a root file
// system of its own.
func (tr *trip) newContainer(t *testing.T, name, rootfs string, args []string, change func(*specs.Spec)) *container {
	t.Helper()
	c := &container{trip: tr, t: t, name: name, bundle: tr.Path("bundles", name)}
	if err := os.MkdirAll(c.bundle, 0o755); err != nil {
		t.Fatal(err)
	}
	tr.run("cp", "-a", rootfs, filepath.Join(c.bundle, "rootfs"))
	s := spec.Default()
	s.Process.Args, s.Process.Terminal = args, false
	if change != nil {
		change(s)
	}
	data, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(filepath.Join(c.bundle, "config.json"), data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// start runs the container on alpha, detached, with create and start as an engine does.
func (c *container) start() {
	c.t.Helper()
	c.verb(append(append([]string{"create", "--bundle", c.bundle}, c.flags...), c.name)...)
	c.alpha.Zap(c.t, "start", c.name)
}

// verb runs zap on alpha with the container's standard streams.
func (c *container) verb(args ...string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := c.alpha.Command(ctx, Binary(c.t), c.alpha.zapArgs(args...)...)
	// os/exec gives /dev/null in the place of nil, and execute a buffer, which would wait for the container.
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	defer null.Close()
	files := c.stdio
	for i := range files {
		if files[i] == nil {
			files[i] = null
		}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[1], files[2]
	if r := execute(ctx, cmd); r.Err != nil {
		c.t.Fatalf("zap %s: %v", strings.Join(args, " "), r)
	}
}

// exec runs a shell command in the container.
func (c *container) exec(h *Host, command string) string {
	c.t.Helper()
	return strings.TrimSpace(h.Zap(c.t, "exec", c.name, "sh", "-c", command))
}

// move moves the container to beta, where it is a pod with the same processes and mounts.
func (c *container) move() Event {
	c.t.Helper()
	look := `sort /proc/1/mounts; cat /proc/1/stat | cut -d' ' -f1-8; hostname; cat /proc/1/status | grep -e Cap -e NoNew -e Seccomp`
	before := c.exec(c.alpha, look)
	final := c.alpha.Migrate(c.t, c.name, c.beta)
	if after := c.exec(c.beta, look); after != before {
		c.t.Errorf("the container on beta is not as it was:\n%s\nit was:\n%s", after, before)
	}
	if r := c.alpha.TryZap(c.t, "state", c.name); r.Err == nil || !strings.Contains(r.Stderr, "does not exist") {
		c.t.Errorf("zap state on alpha: %v", r)
	}
	c.wantNothingLeft(c.t, c.alpha)
	return final
}

// end ends the container on beta by the OCI verbs.
func (c *container) end() {
	c.t.Helper()
	if s := c.status(c.beta); s != "running" {
		c.t.Errorf("the container is %q on beta, not running", s)
	}
	c.beta.Zap(c.t, "kill", c.name, "KILL")
	WaitFor(c.t, 10*time.Second, "the container to stop", func() bool { return c.status(c.beta) == "stopped" })
	c.beta.Zap(c.t, "delete", c.name)
	c.wantNothingLeft(c.t, c.beta)
}

// status is what zap state says.
func (c *container) status(h *Host) string {
	c.t.Helper()
	var state struct{ Status string }
	if err := json.Unmarshal([]byte(h.Zap(c.t, "state", c.name)), &state); err != nil {
		c.t.Fatal(err)
	}
	return state.Status
}

// logs is the container's log on beta.
func (c *container) logs() string {
	c.t.Helper()
	return c.beta.Zap(c.t, "pod", "logs", c.name)
}

// counting is a program that writes numbered lines. The sleep is a process of its own each time, and the shell waits for it.
const counting = `sleep 7777 & echo $! > /dev/shm/sleeper; i=0; while i=$((i+1)); do echo line $i; echo $i > /dev/shm/count; sleep 0.02; done`

// TestContainer moves a container of the default specification whose standard output is a file of the host.
func TestContainer(t *testing.T) {
	tr := newTrip(t)
	c := tr.newContainer(t, tr.PodName("count"), busyboxRootfs(t), []string{"sh", "-c", counting}, nil)
	out, err := os.Create(tr.Path("out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.stdio[1], c.stdio[2] = out, out
	c.start()
	said := func() string { data, _ := os.ReadFile(out.Name()); return string(data) }
	WaitFor(t, 10*time.Second, "ten lines", func() bool { return strings.Contains(said(), "line 10\n") })
	sleeper := c.exec(tr.alpha, "cat /dev/shm/sleeper")
	c.move()

	wantCount := len(c.logs()) + 200
	WaitFor(t, 10*time.Second, "more lines", func() bool { return len(c.logs()) > wantCount })
	wantLines(t, "the file and then the log", said()+c.logs())
	for command, want := range map[string]string{
		"cat /proc/" + sleeper + "/cmdline | tr '\\0' ' '":                              "sleep 7777",
		"[ $(readlink /proc/self/ns/time) = $(readlink /proc/1/ns/time) ] && echo same": "same",
		"readlink /proc/1/fd/0": "/dev/null",
		"cd /sys/fs/cgroup; grep -x 1 pids/cgroup.procs || grep -x 1 cgroup.procs":                                                             "1",
		"touch /sys/fs/cgroup/pids/tasks /x /proc/sys/kernel/hostname 2>&1 | grep -c Read-only":                                                "3",
		"cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; a=$(cat /dev/shm/count); sleep 0.5; [ $a -lt $(cat /dev/shm/count) ] && echo more": "0\n0\nmore",
	} {
		if got := c.exec(tr.beta, command); got != want {
			t.Errorf("in the container on beta %s says %q, not %q", command, got, want)
		}
	}
	c.end()
}

var _ = bufio.NewReader
var _ = fmt.Sprint
var _ = slices.Sort[[]string]
