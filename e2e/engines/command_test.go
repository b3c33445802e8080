package engines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// commandTimeout bounds every command of an engine.
const commandTimeout = 60 * time.Second

// result is what a command said.
type result struct {
	args           []string
	Stdout, Stderr string
	Code           int
	Err            error // not an exit code: it did not start, or took too long
}

func (r result) String() string {
	return fmt.Sprintf("%s: code %d, %v\nstdout: %s\nstderr: %s", strings.Join(r.args, " "), r.Code, r.Err, r.Stdout, r.Stderr)
}

// run runs a command with an empty standard input.
func run(args ...string) result { return runWith("", args...) }

// runWith runs a command with that standard input. What it leaves running may keep its standard streams.
func runWith(input string, args ...string) result {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	cmd.Env = append(os.Environ(), "TMPDIR=/var/tmp")
	cmd.Dir = "/run" // conmon leaves a file there when the kernel kills for want of memory
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	r := result{args: args, Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		r.Err = ctx.Err()
	case err != nil && !errors.As(err, &exit):
		r.Err = err
	}
	return r
}

// must runs a command that has to succeed and returns its standard output without white space around it.
func must(t *testing.T, args ...string) string {
	t.Helper()
	r := run(args...)
	if r.Err != nil || r.Code != 0 {
		t.Fatal(r)
	}
	return strings.TrimSpace(r.Stdout)
}

// waitFor waits until what is true.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
