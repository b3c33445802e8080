package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/boot"
)

// TestInRuncWords checks the frame of each kind of error.
func TestInRuncWords(t *testing.T) {
	mount := &runtime.StageError{
		Stage: runtime.StageMount, Mount: specs.Mount{Source: "/src", Destination: "/dst"},
		Err: &boot.Failure{What: "mount /src on /dst", Err: unix.EPERM},
	}
	created := func(err error) error { return errors.Join(fmt.Errorf("create container one: %w", err), nil) }
	for _, c := range []struct {
		command string
		err     error
		want    string
	}{
		{"runc run", created(mount), "runc run failed: unable to start container process: error during container init: " +
			`error mounting "/src" to rootfs at "/dst": mount /src on /dst: operation not permitted`},
		{
			"runc create", created(&runtime.StageError{Stage: runtime.StageInit, Err: errors.New("why")}),
			"runc create failed: unable to start container process: error during container init: why",
		},
		{
			"runc run", created(&runtime.StageError{Stage: runtime.StageCgroup, Err: errors.New("why")}),
			"runc run failed: unable to start container process: unable to apply cgroup configuration: why",
		},
		{
			"runc exec", &exitError{255, fmt.Errorf("exec in container one: %w", &boot.Failure{What: `exec "x"`, Err: boot.ErrNotFound})},
			`exec failed: unable to start container process: exec "x": executable file not found in $PATH`,
		},
		{"runc exec", fmt.Errorf("load container one: %w", runtime.ErrNotExist), "exec failed: container does not exist"},
		{"runc kill", fmt.Errorf("load container one: %w", runtime.ErrNotExist), "container does not exist"},
		{"runc run", created(runtime.ErrExist), "runc run failed: container with given ID already exists"},
		{"runc run", created(errors.New("why")), "runc run failed: create container one: why"},
		{"runc pod run", errors.New("why"), "why"},
		// Nothing may get lost.
		{"runc run", errors.Join(created(mount), errors.New("and this")), "runc run failed: " + created(mount).Error() + "\nand this"},
	} {
		if got := inRuncWords(c.command, c.err); got != c.want {
			t.Errorf("%s: %q, want %q", c.command, got, c.want)
		}
	}
}

// TestUnderTheNameOfRunc calls this program by a link, as somebody does who put it in runc's place, and finds runc's errors where runc
// leaves them. Under its own name it says the same as ever.
func TestUnderTheNameOfRunc(t *testing.T) {
	l := newOCILab(t)
	l.spec.Mounts = append(l.spec.Mounts, specs.Mount{Destination: "/x", Type: "tmpfs", Source: "memory", Options: []string{"size=big"}})
	l.program("true")
	link := filepath.Join(t.TempDir(), "runc")
	const (
		cause = "mount tmpfs on /x: invalid argument (config.json: mounts["
		frame = `runc run failed: unable to start container process: error during container init: error mounting "memory" to rootfs at "/x": ` + cause
	)
	call := func(name string, args ...string) (stderr string) {
		t.Helper()
		cmd := l.command(args...)
		if name != "" {
			_ = os.Remove(link)
			if err := os.Symlink(cmd.Path, link); err != nil {
				t.Fatal(err)
			}
			cmd.Path, cmd.Args[0] = link, link
		}
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Run(); err == nil {
			t.Errorf("%v succeeded", args)
		}
		return errs.String()
	}
	if errs := call("", "run", "one"); !strings.HasPrefix(errs, "zap: create container one: "+cause) {
		t.Errorf("under its own name: %q", errs)
	}
	if errs := call("runc", "run", "one"); !strings.Contains(errs, "level=error msg=\"runc run failed: unable to start") || strings.Count(errs, "\n") != 1 {
		t.Errorf("text: %q", errs)
	}
	var line struct{ Level, Msg string }
	errs := call("runc", "--log-format", "json", "run", "one")
	if err := json.Unmarshal([]byte(errs), &line); err != nil || line.Level != "error" || !strings.HasPrefix(line.Msg, frame) {
		t.Errorf("JSON: %q, %v", errs, err)
	}
	log := filepath.Join(t.TempDir(), "log")
	errs = call("runc", "--log", log, "--log-format", "json", "run", "one")
	text, err := os.ReadFile(log)
	if err = errors.Join(err, json.Unmarshal(text, &line)); err != nil || !strings.HasPrefix(line.Msg, frame) {
		t.Errorf("log: %q, %v", text, err)
	}
	if !strings.HasPrefix(errs, frame) {
		t.Errorf("with a log: %q", errs)
	}
	if errs := call("runc", "state", "one"); !strings.HasSuffix(errs, " level=error msg=\"container does not exist\"\n") {
		t.Errorf("state: %q", errs)
	}
	if errs := call("runc", "run"); !strings.Contains(errs, `level=error msg="\"run\" does not work with no argument`) {
		t.Errorf("a wrong use: %q", errs)
	}
	// What runc's first process says itself stays alone.
	if err := os.WriteFile(filepath.Join(l.bundle, "rootfs/run.sh"), []byte("#!/none\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.spec.Mounts = l.spec.Mounts[:len(l.spec.Mounts)-1]
	l.spec.Process.Args = []string{"/run.sh"}
	l.writeSpec()
	if errs := call("runc", "run", "one"); errs != "exec /run.sh: no such file or directory\n" {
		t.Errorf("missing interpreter: %q", errs)
	}
}
