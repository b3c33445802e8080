package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// output runs a command line in this process and returns what it prints on standard output.
func output(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	root := newRootCommand(new(globals), args)
	root.SetOut(&out)
	if err := root.Execute(); err != nil {
		t.Fatalf("zap %v: %v", args, err)
	}
	return out.String()
}

// TestHelp looks for what scripts look for in runc's help, and for an example of every verb that people call.
func TestHelp(t *testing.T) {
	for _, flag := range []string{"-h", "--help"} {
		if got := output(t, flag); !strings.HasPrefix(got, "NAME:\n   zap - Open Container Initiative runtime") {
			t.Errorf("zap %s:\n%s", flag, got)
		}
	}
	for _, v := range verbs {
		cmd := v.build(new(globals))
		if cmd.Hidden {
			continue
		}
		got := output(t, v.name, "--help")
		if !strings.HasPrefix(got, "NAME:\n   zap "+v.name+" - ") || !strings.Contains(got, "\nUSAGE:\n   zap "+v.name) || !strings.Contains(got, "\nGLOBAL OPTIONS:\n") {
			t.Errorf("zap %s --help:\n%s", v.name, got)
		}
	}
	// podman asks whether a runtime can checkpoint by this.
	if i := slices.IndexFunc(verbs, func(v verb) bool { return v.name == "checkpoint" }); i >= 0 {
		output(t, "checkpoint", "--help")
	}
}

// TestVersion wants the lines that go-runc and CRI-O read.
func TestVersion(t *testing.T) {
	want := regexp.MustCompile(`^zap version \d+\.\d+\.\d+\S*\ncommit: \S+\nspec: \d+\.\d+\.\d+\ngo: `)
	for _, flag := range []string{"-v", "--version"} {
		if got := output(t, flag); !want.MatchString(got) {
			t.Errorf("zap %s:\n%s", flag, got)
		}
	}
}

// TestNormalize checks which flags with one dash become those with two.
func TestNormalize(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"run -no-subreaper -bundle /b c", "run --no-subreaper --bundle /b c"},
		{"-root /r -log=/l run c -detach", "--root /r --log=/l run c --detach"},
		{"-v", "-v"},
		{"exec -t -cwd /x -user 5 c ls -all -cwd /y", "exec -t --cwd /x --user 5 c ls -all -cwd /y"},
		{"exec -e -cwd c -tty", "exec -e -cwd c -tty"},
		{"exec -te A=b c kill -all", "exec -te A=b c kill -all"},
		{"kill c -all", "kill c --all"},
		{"kill -- -all", "kill -- -all"},
		{"run -d -b . c", "run -d -b . c"},
	} {
		root := newRootCommand(new(globals), nil)
		if got := strings.Join(normalize(root, strings.Fields(c.in)), " "); got != c.want {
			t.Errorf("%q became %q, want %q", c.in, got, c.want)
		}
	}
}

// TestUsageErrors checks what a wrong command line is answered, on standard error and in the log that containerd reads.
func TestUsageErrors(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"foo -h", "No help topic for 'foo'"},
		{"foo", "there is no such command (did you mean pod?) (usage: zap [flags] COMMAND"},
		{"--root /tmp stat", "did you mean start or state?"},
		{"state", `"state" does not work with no argument (usage: zap state`},
		{"state a b", `"state" does not work with 2 arguments (usage: zap state`},
		{"delete --nothing a", "unknown flag: --nothing (usage: zap delete"},
		{"run --bundle", "flag needs an argument: --bundle (usage: zap run"},
		{"--root / list", "no directory for containers"},
		{"--rootless maybe list", "neither true, false nor auto"},
		{"list --format xml", "xml"},
	} {
		log := filepath.Join(t.TempDir(), "log")
		args := append([]string{"--log", log, "--log-format", "json"}, strings.Fields(c.args)...)
		old := os.Stderr
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		os.Stderr = w
		code := run(t.Context(), args)
		os.Stderr = old
		w.Close()
		var said bytes.Buffer
		_, _ = said.ReadFrom(r)
		r.Close()
		if code != 1 || !strings.HasPrefix(said.String(), "zap: ") || !strings.Contains(said.String(), c.want) || strings.Count(said.String(), "\n") != 1 {
			t.Errorf("zap %s: exit code %d, %q, want %q", c.args, code, said.String(), c.want)
		}
		var line struct{ Level, Msg, Time string }
		if text, err := os.ReadFile(log); err != nil || json.Unmarshal(text, &line) != nil || line.Level != "error" || line.Time == "" ||
			!strings.Contains(line.Msg, c.want) {
			t.Errorf("zap %s: log %q, %v", c.args, text, err)
		}
	}
}
