package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hookPath is the environment of hooks that call programs of the host.
var hookPath = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}

// shellHook is a hook that runs a script of the host's, or of the container's, shell.
func shellHook(script string) []specs.Hook {
	return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: hookPath}}
}

// TestHooks runs one hook of each kind and checks their order, what each is told and where it runs.
func TestHooks(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	b := l.bundle("read_it=$(cat /made/by/hook); echo $read_it >/out/program; exec sleep 1000")
	b.Spec.Root.Readonly = false
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/out", Type: "bind", Source: dir, Options: []string{"bind"}})
	report := func(name, out string) string {
		return fmt.Sprintf("echo %s >>%s/order; { cat; echo; } >%[2]s/%[1]s.json; readlink /proc/self/ns/mnt >%[2]s/%[1]s.mnt; ", name, out)
	}
	b.Spec.Annotations = map[string]string{"a": "b"}
	b.Spec.Hooks = &specs.Hooks{
		//lint:ignore SA1019 prestart is deprecated and in use
		Prestart:      shellHook(report("prestart", dir)),
		CreateRuntime: shellHook(report("createRuntime", dir) + "test -e " + b.RootPath() + "/proc/self && exit 1; exit 0"),
		CreateContainer: shellHook(report("createContainer", dir) + "set -e; test -d /usr/share; test -e ./dev/null; test -e ./proc/1/stat; " +
			"mkdir -p made/by; mkdir " + dir + "/source; echo word >" + dir + "/source/hook; mount --bind " + dir + "/source made/by"),
		StartContainer: shellHook(report("startContainer", "/out") + "id -u >/out/user; pwd >/out/cwd"),
		Poststart:      shellHook(report("poststart", dir)),
		Poststop:       shellHook(report("poststop", dir) + "test ! -e " + l.runtime.Dir("one") + " && echo gone >" + dir + "/gone"),
	}
	c := l.create("one", b)
	pid := c.State().Pid
	if got, want := read(t, dir, "order"), "prestart\ncreateRuntime\ncreateContainer\n"; got != want {
		t.Errorf("created: hooks %q, want %q", got, want)
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if text, err := os.ReadFile(filepath.Join(dir, "program")); err == nil && len(text) > 0 {
			break // the program has written all that it writes
		}
	}
	l.remove(c)
	if got, want := read(t, dir, "order"), "prestart\ncreateRuntime\ncreateContainer\nstartContainer\npoststart\npoststop\n"; got != want {
		t.Errorf("hooks %q, want %q", got, want)
	}
	for kind, want := range map[string]struct {
		status specs.ContainerState
		pid    int
		ns     string
	}{
		"prestart":        {specs.StateCreated, pid, ours},
		"createRuntime":   {specs.StateCreating, pid, ours},
		"createContainer": {specs.StateCreating, 1, theirs},
		"startContainer":  {specs.StateCreated, 1, theirs},
		"poststart":       {specs.StateRunning, pid, ours},
		"poststop":        {specs.StateStopped, 0, ours},
	} {
		var s specs.State
		if err := json.Unmarshal([]byte(read(t, dir, kind+".json")), &s); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if s.ID != "one" || s.Status != want.status || s.Pid != want.pid || s.Bundle != b.Dir || s.Annotations["a"] != "b" || s.Version == "" {
			t.Errorf("%s was told %+v", kind, s)
		}
		if ns := strings.TrimSpace(read(t, dir, kind+".mnt")); ns != want.ns {
			t.Errorf("%s ran in %s, want %s", kind, ns, want.ns)
		}
	}
	for name, want := range map[string]string{"program": "word\n", "user": "0\n", "cwd": "/\n", "gone": "gone\n"} {
		if got := read(t, dir, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// read returns the content of a file that a hook or a container wrote.
func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

// setHook sets the hooks of a kind.
func setHook(h *specs.Hooks, kind string, hooks []specs.Hook) {
	switch kind {
	case "prestart":
		//lint:ignore SA1019 prestart is deprecated and in use
		h.Prestart = hooks
	case "createRuntime":
		h.CreateRuntime = hooks
	case "createContainer":
		h.CreateContainer = hooks
	case "startContainer":
		h.StartContainer = hooks
	case "poststart":
		h.Poststart = hooks
	}
}

// TestFailingHooks fails one hook of each kind in a run: the program does not run, nothing is left, the poststop hooks have run.
func TestFailingHooks(t *testing.T) {
	l := newLab(t)
	for _, kind := range []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart"} {
		t.Run(kind, func(t *testing.T) {
			l := &lab{t: t, runtime: l.runtime, ctx: l.ctx}
			dir := t.TempDir()
			b := l.bundle("echo ran >/out/program; exec sleep 1000")
			b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/out", Type: "bind", Source: dir, Options: []string{"bind"}})
			b.Spec.Hooks = &specs.Hooks{Poststop: shellHook("cat >" + dir + "/poststop")}
			setHook(b.Spec.Hooks, kind, append(shellHook("true"), shellHook("echo no; exit 3")...))
			null := devNull(t)
			_, err := l.runtime.Run(l.ctx, "fails", b, CreateOptions{Stdin: null, Stdout: null, Stderr: null})
			if want := fmt.Sprintf("error running %s hook #1: exit status 3: no (config.json: hooks.%[1]s[1])", kind); err == nil ||
				!strings.Contains(err.Error(), want) {
				t.Errorf("run: %v, want %s", err, want)
			}
			if _, err := os.Stat(filepath.Join(dir, "program")); err == nil && kind != "poststart" {
				t.Error("the program ran")
			}
			if got := read(t, dir, "poststop"); !strings.Contains(got, `"status":"stopped"`) {
				t.Errorf("poststop was told %q", got)
			}
			if _, err := os.Stat(l.runtime.Dir("fails")); err == nil {
				t.Error("the container is there after a failed hook")
			}
		})
	}
}

// TestFailingStart fails hooks of start: the container is stopped and waits for its removal.
func TestFailingStart(t *testing.T) {
	l := newLab(t)
	for _, kind := range []string{"startContainer", "poststart"} {
		b := l.bundle("exec sleep 1000")
		b.Spec.Hooks = new(specs.Hooks)
		setHook(b.Spec.Hooks, kind, shellHook("exit 1"))
		c := l.create(kind, b)
		if err := c.Start(l.ctx); err == nil || !strings.Contains(err.Error(), "error running "+kind+" hook #0: exit status 1 (") {
			t.Errorf("start: %v", err)
		}
		for deadline := time.Now().Add(10 * time.Second); c.Status() != specs.StateStopped && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if s := c.Status(); s != specs.StateStopped {
			t.Errorf("%s: container is %s", kind, s)
		}
		if err := c.Start(l.ctx); err == nil {
			t.Errorf("%s: a stopped container was started", kind)
		}
	}
}

// TestKilledHook wants the signal to be named that has ended a hook, beside the container and in it.
func TestKilledHook(t *testing.T) {
	l := newLab(t)
	for _, kind := range []string{"createRuntime", "createContainer", "startContainer"} {
		b := l.bundle("exec sleep 1000")
		b.Spec.Hooks = new(specs.Hooks)
		setHook(b.Spec.Hooks, kind, shellHook("kill -31 $$"))
		null := devNull(t)
		_, err := l.runtime.Run(l.ctx, kind, b, CreateOptions{Stdin: null, Stdout: null, Stderr: null})
		if want := "error running " + kind + " hook #0: signal: bad system call"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("run: %v, want %s", err, want)
		}
	}
}

// TestPoststopHooks wants all of them to run, whatever one does.
func TestPoststopHooks(t *testing.T) {
	l := newLab(t)
	var log bytes.Buffer
	l.runtime.log = slog.New(slog.NewTextHandler(&log, nil))
	dir := t.TempDir()
	b := l.bundle("true")
	b.Spec.Hooks = &specs.Hooks{Poststop: append(append(shellHook("true"), shellHook("exit 1")...), shellHook("touch "+dir+"/third")...)}
	l.run(b)
	read(t, dir, "third")
	if !strings.Contains(log.String(), "hooks.poststop[1]") {
		t.Errorf("log %q", log.String())
	}
}

// TestHookTimeout wants a hook that takes too long to be killed, with what it has started.
func TestHookTimeout(t *testing.T) {
	l := newLab(t)
	for _, kind := range []string{"createRuntime", "createContainer", "startContainer"} {
		dir := t.TempDir()
		b := l.bundle("true")
		b.Spec.Hooks = new(specs.Hooks)
		b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: dir, Type: "bind", Source: dir, Options: []string{"bind"}})
		one := 1
		if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o666); err != nil {
			t.Fatal(err)
		}
		fifo, err := os.OpenFile(filepath.Join(dir, "fifo"), os.O_RDONLY|unix.O_NONBLOCK, 0) // ends when nothing of the hook is left
		if err != nil {
			t.Fatal(err)
		}
		hooks := shellHook("exec 9>" + dir + "/fifo; echo $$; sleep 1000 & wait")
		hooks[0].Timeout = &one
		setHook(b.Spec.Hooks, kind, hooks)
		_, err = l.runtime.Run(l.ctx, "slow", b, CreateOptions{})
		if want := "error running " + kind + " hook #0: killed at its timeout of 1 s"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("run: %v, want %s", err, want)
		}
		if !errors.Is(err, errHookTimeout) {
			t.Errorf("cause of %v", err)
		}
		_ = fifo.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadAll(fifo); err != nil {
			t.Errorf("%s: something of the hook is left: %v", kind, err)
		}
		fifo.Close()
	}
}

// TestStartHookProcess checks as whom a startContainer hook runs: as the program would, with its environment unless it brings its own.
func TestStartHookProcess(t *testing.T) {
	l := newLab(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	b := l.bundle("true")
	b.Spec.Process.User = specs.User{UID: 1000, GID: 1000}
	b.Spec.Process.Env = []string{"ONE=two", "PATH=/bin"}
	b.Spec.Process.Cwd = "/tmp"
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/out", Type: "bind", Source: dir, Options: []string{"bind"}})
	b.Spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{
		{Path: "/bin/busybox", Args: []string{"sh", "-c", "echo $ONE $HOME $(id -u) $(pwd) $(grep CapEff /proc/self/status) >/out/first"}},
		{Path: "/bin/busybox", Args: []string{"sh", "-c", "echo $ONE$TWO >/out/second"}, Env: []string{"TWO=2"}},
		{Path: "/bin/true"},
	}}
	if out, code := l.run(b); code != 0 {
		t.Errorf("%q, %d", out, code)
	}
	if got, want := read(t, dir, "first"), "two /home/user 1000 /tmp CapEff: 0000000000000000\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := read(t, dir, "second"), "2\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	b.Spec.Hooks.StartContainer = []specs.Hook{{Path: "/bin/nothing"}}
	_, err := l.runtime.Run(l.ctx, "missing", b, CreateOptions{})
	want := `error running startContainer hook #0: exec "/bin/nothing": no such file or directory`
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}
