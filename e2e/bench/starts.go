package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
)

// runtimes are compared in this order, in turn.
var runtimes = []string{"zap", "crun", "runc"}

// The kinds of work that are measured.
const (
	kindRun       = "run"       // `run` of /bin/true
	kindLifecycle = "lifecycle" // `create`, `start` and `delete` of the same
	kindExec      = "exec"      // `exec` of /bin/true in a container that runs
	kindParallel  = "parallel"  // sideBySide times `run` at once
	kindMemory    = "memory"    // `run`, with what the runtime and all its children had charged at the most
)

const (
	sideBySide = 100 // containers at once
	fewRounds  = 5   // of what takes long, or varies little
)

// start is one piece of work, and what it took.
type start struct {
	Wall, CPU time.Duration // CPU: of the runtime, the container and whatever they waited for
	Peak      int64         // bytes, of kindMemory
}

// starts are all samples, by kind and runtime.
type starts map[string]map[string][]start

func (s starts) add(kind, runtime string, one start) {
	if s[kind] == nil {
		s[kind] = map[string][]start{}
	}
	s[kind][runtime] = append(s[kind][runtime], one)
}

// unified is the v2 tree of a hybrid machine. crun refuses machines that have it.
const unified = "/sys/fs/cgroup/unified"

// benchStarts measures starts in a mount namespace of its own.
func benchStarts(t testing.TB, s settings) starts {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/var/tmp", "zap-bench-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private", "--", self, "starts", dir, strconv.Itoa(s.runs))
	cmd.Stderr = os.Stderr
	r := e2e.Run(ctx, cmd)
	if r.Err != nil {
		t.Fatalf("measure starts: %v", r.Err)
	}
	var all starts
	if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// startsMain is the process in that namespace.
func startsMain(dir, count string) error {
	runs, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	if _, err := os.Stat(unified); err == nil {
		if err := syscall.Unmount(unified, syscall.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", unified, err)
		}
	}
	b := &starter{dir: dir, all: starts{}}
	if b.short, err = writeBundle(filepath.Join(dir, "short"), "/bin/true"); err != nil {
		return err
	}
	if b.long, err = writeBundle(filepath.Join(dir, "long"), "/bin/sleep", "3600"); err != nil {
		return err
	}
	if err := b.measure(runs); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(b.all)
}

// starter measures the runtimes in turns.
type starter struct {
	dir         string
	short, long string // bundles: /bin/true, and a program that stays
	number      int    // of containers so far
	all         starts
}

func (b *starter) measure(runs int) error {
	for _, name := range runtimes {
		if _, err := b.command(name, "run", "--detach", "--bundle", b.long, "long-"+name); err != nil {
			return err
		}
		defer func() { _, _ = b.command(name, "delete", "--force", "long-"+name) }()
	}
	const warm = 3 // the first ones read files from the disk
	for _, work := range []struct {
		kind string
		runs int
		do   func(name string) (start, error)
	}{
		{kindRun, runs + warm, b.run},
		{kindLifecycle, runs/2 + warm, b.lifecycle},
		{kindExec, runs + warm, func(name string) (start, error) { return b.command(name, "exec", "long-"+name, "/bin/true") }},
		{kindParallel, fewRounds + warm, b.parallel},
		{kindMemory, fewRounds + warm, b.memory},
	} {
		for i := range work.runs {
			for _, name := range runtimes {
				one, err := work.do(name)
				if err != nil {
					return err
				}
				if i >= warm {
					b.all.add(work.kind, name, one)
				}
			}
		}
	}
	return nil
}

// id is a container's name that was not used before.
func (b *starter) id() string {
	b.number++
	return fmt.Sprintf("bench-%d-%d", os.Getpid(), b.number)
}

func (b *starter) run(name string) (start, error) {
	return b.command(name, "run", "--bundle", b.short, b.id())
}

// lifecycle is what an engine does with a container. The time in which the container runs is not counted.
func (b *starter) lifecycle(name string) (sum start, err error) {
	id := b.id()
	for _, args := range [][]string{{"create", "--bundle", b.short, id}, {"start", id}, {"delete", id}} {
		if args[0] == "delete" {
			if err := b.awaitStopped(name, id); err != nil {
				return sum, err
			}
		}
		one, err := b.command(name, args...)
		if err != nil {
			return sum, err
		}
		sum.Wall, sum.CPU = sum.Wall+one.Wall, sum.CPU+one.CPU
	}
	return sum, nil
}

func (b *starter) awaitStopped(name, id string) error {
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		out, err := exec.Command(program(name), "--root", filepath.Join(b.dir, name), "state", id).Output()
		if err != nil {
			return fmt.Errorf("%s state: %w", name, err)
		}
		if bytes.Contains(out, []byte(`"stopped"`)) {
			return nil
		}
	}
	return fmt.Errorf("%s: container %s does not stop", name, id)
}

// parallel starts many at once and waits for all.
func (b *starter) parallel(name string) (sum start, err error) {
	type result struct {
		one start
		err error
	}
	results := make(chan result, sideBySide)
	begin := time.Now()
	for range sideBySide {
		id := b.id()
		go func() {
			one, err := b.command(name, "run", "--bundle", b.short, id)
			results <- result{one, err}
		}()
	}
	for range sideBySide {
		r := <-results
		sum.CPU += r.one.CPU
		err = errors.Join(err, r.err)
	}
	sum.Wall = time.Since(begin)
	return sum, err
}

// memory is a run in a memory cgroup of its own, which counts everything, the kernel's memory for it too.
func (b *starter) memory(name string) (start, error) {
	dir, file := "/sys/fs/cgroup/memory", "memory.max_usage_in_bytes"
	if _, err := os.Stat(dir); err != nil {
		dir, file = "/sys/fs/cgroup", "memory.peak"
	}
	dir = filepath.Join(dir, b.id())
	if err := os.Mkdir(dir, 0o755); err != nil {
		return start{}, err
	}
	defer os.Remove(dir)
	one, err := b.timed("sh", "-c", `echo $$ > `+dir+`/cgroup.procs && exec "$@"`, "sh",
		program(name), "--root", filepath.Join(b.dir, name), "run", "--bundle", b.short, b.id())
	if err != nil {
		return start{}, err
	}
	data, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return start{}, err
	}
	one.Peak, err = strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
	return one, err
}

// writeBundle is what `runc spec` writes, without a terminal, with a static busybox and the seccomp profile of Debian's engines.
func writeBundle(bundle string, args ...string) (string, error) {
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs", "bin"), 0o755); err != nil {
		return "", err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	static, err := os.ReadFile(busybox)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"true", "sleep"} {
		if err := os.WriteFile(filepath.Join(bundle, "rootfs/bin", name), static, 0o755); err != nil {
			return "", err
		}
	}
	if out, err := exec.Command("runc", "spec", "-b", bundle).CombinedOutput(); err != nil {
		return "", fmt.Errorf("runc spec: %w: %s", err, out)
	}
	path := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var config map[string]any
	if err := json.Unmarshal(data, &config); err != nil {
		return "", err
	}
	process, _ := config["process"].(map[string]any)
	linux, _ := config["linux"].(map[string]any)
	if process == nil || linux == nil {
		return "", errors.New("runc spec: a config without a process")
	}
	process["terminal"], process["args"] = false, args
	if linux["seccomp"], err = e2e.EngineProfile([]string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}); err != nil {
		return "", err
	}
	if data, err = json.Marshal(config); err != nil {
		return "", err
	}
	return bundle, os.WriteFile(path, data, fs.FileMode(0o644))
}

// program is the binary of a runtime.
func program(name string) string {
	if name == "zap" {
		return os.Getenv("ZAP")
	}
	return name
}

// command runs a verb of a runtime.
func (b *starter) command(name string, args ...string) (start, error) {
	return b.timed(program(name), append([]string{"--root", filepath.Join(b.dir, name)}, args...)...)
}

func (b *starter) timed(argv0 string, args ...string) (start, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv0, args...)
	output, err := os.CreateTemp(b.dir, "output-") // no pipe: a container that stays would keep it
	if err != nil {
		return start{}, err
	}
	defer os.Remove(output.Name())
	defer output.Close()
	cmd.Stdout, cmd.Stderr = output, output
	begin := time.Now()
	err = cmd.Run()
	wall := time.Since(begin)
	if err != nil {
		said, _ := os.ReadFile(output.Name())
		return start{}, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, said)
	}
	return start{Wall: wall, CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}, nil
}
