package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// version and commit are what `zap --version` prints; the Makefile sets commit at link time.
var version, commit = "0.1.0-dev", "unknown"

// exitError carries the exit code that a verb wants for its error; err may be
// nil when everything was said already (the exit code of a pod's program).
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// began is when this process's own work did, as far as it can know.
var began = time.Now()

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// run is main without the process around it: it returns the exit code.
func run(ctx context.Context, args []string) int {
	g := &globals{}
	root := newRootCommand(g, args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if unknown := unknownCommand(root, args); unknown != nil {
		err = unknown
	}
	code := 1
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
		if exit.err == nil {
			return code
		}
	}
	g.report(cmd.CommandPath(), err)
	return code
}
