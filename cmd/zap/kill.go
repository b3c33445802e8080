package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime"
)

func newKillCommand(g *globals) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "kill [flags] CONTAINER [SIGNAL]",
		Short: "Send a signal (default TERM) to the first process of a container",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			sig := unix.SIGTERM
			if len(args) == 2 {
				var err error
				if sig, err = parseSignal(args[1]); err != nil {
					return err
				}
			}
			c, err := runtime.New(g.root, g.log).Load(args[0])
			if err != nil {
				return err
			}
			return c.Kill(sig, all)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "send it to all processes of the container")
	return cmd
}

// parseSignal reads a signal by number or by name, with or without SIG, in any case.
func parseSignal(text string) (unix.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("signal %d: unknown", n)
		}
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if sig := unix.SignalNum(name); sig != 0 {
		return sig, nil
	}
	if sig, ok := realtimeSignal(name); ok {
		return sig, nil
	}
	return 0, fmt.Errorf("signal %q: unknown", text)
}

// realtimeSignal reads SIGRTMIN, SIGRTMIN+N, SIGRTMAX and SIGRTMAX-N, as the C library counts them.
func realtimeSignal(name string) (unix.Signal, bool) {
	const first, last = 34, 64
	n := 0
	switch {
	case strings.HasPrefix(name, "SIGRTMIN"):
		offset, err := strconv.Atoi("0" + strings.TrimPrefix(name[len("SIGRTMIN"):], "+"))
		if err != nil {
			return 0, false
		}
		n = first + offset
	case strings.HasPrefix(name, "SIGRTMAX"):
		offset, err := strconv.Atoi("0" + strings.TrimPrefix(name[len("SIGRTMAX"):], "-"))
		if err != nil {
			return 0, false
		}
		n = last - offset
	}
	return unix.Signal(n), n >= first && n <= last
}
