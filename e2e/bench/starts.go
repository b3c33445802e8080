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
	"syscall"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
)

// runtimes are compared in this order, in turn.
var runtimes = []string{"zap", "crun", "runc"}

// start is one run of /bin/true.
type start struct {
	Wall, CPU time.Duration // CPU: of the runtime, the container and whatever they waited for
}

// unified is the v2 tree of a hybrid machine. crun refuses machines that have it.
const unified = "/sys/fs/cgroup/unified"

// benchStarts measures `run /bin/true` in a mount namespace of its own, and answers with the runs by runtime.
func benchStarts(t testing.TB, s settings) map[string][]start {
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
	var all map[string][]start
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
	bundle, err := trueBundle(dir)
	if err != nil {
		return err
	}
	all := map[string][]start{}
	for i := range runs + 3 {
		for _, name := range runtimes {
			s, err := startOnce(name, dir, bundle, i)
			if err != nil {
				return err
			}
			if i >= 3 { // the first ones read files from the disk
				all[name] = append(all[name], s)
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(all)
}

// trueBundle is what `runc spec` writes, without a terminal, with a static /bin/true.
func trueBundle(dir string) (string, error) {
	bundle := filepath.Join(dir, "bundle")
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs", "bin"), 0o755); err != nil {
		return "", err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(bundle, "rootfs/bin/true"), program, 0o755); err != nil {
		return "", err
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
	process, ok := config["process"].(map[string]any)
	if !ok {
		return "", errors.New("runc spec: a config without a process")
	}
	process["terminal"], process["args"] = false, []string{"/bin/true"}
	if data, err = json.Marshal(config); err != nil {
		return "", err
	}
	return bundle, os.WriteFile(path, data, fs.FileMode(0o644))
}

// startOnce runs the bundle once.
func startOnce(name, dir, bundle string, number int) (start, error) {
	program := name
	if name == "zap" {
		program = os.Getenv("ZAP")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "--root", filepath.Join(dir, name), "run", "--bundle", bundle, fmt.Sprintf("bench-%d-%d", os.Getpid(), number))
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	begin := time.Now()
	err := cmd.Run()
	wall := time.Since(begin)
	if err != nil {
		return start{}, fmt.Errorf("%s run: %w: %s", name, err, output.Bytes())
	}
	return start{Wall: wall, CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}, nil
}
