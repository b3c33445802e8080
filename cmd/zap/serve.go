package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/pod/migrate"
	"github.com/zap-migrate/zap/pod/peer"
	"github.com/zap-migrate/zap/runtime"
)

// defaultIdle is how long the other side of a move may be silent.
const defaultIdle = 5 * time.Second

// minIdle leaves room for two signs of life, which come twice a second.
const minIdle = time.Second

func checkIdle(d time.Duration) error {
	if d < minIdle {
		return fmt.Errorf("flag --idle: %v is less than %v", d, minIdle)
	}
	return nil
}

func criuCache(root string) string { return filepath.Join(root, ".criu") }

func newServeCommand(g *globals) *cobra.Command {
	var listen, tlsDir string
	var idle time.Duration
	var hold int64
	cmd := &cobra.Command{
		Use:   "serve --listen ADDR:PORT --tls DIR/HOST",
		Short: "Take in pods that peers send",
		Long: "Take in pods that peers send. Both sides of every connection prove who they are with keys of `zap keys init`.\n" +
			"serve may be ended and started at any time: pods go on running, and a move that was cut off is brought to its end.",
		Example: "  zap serve --listen 0.0.0.0:7800 --tls /etc/zap/keys/b",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if err := checkIdle(idle); err != nil {
				return err
			}
			binary, err := criu.Find(ctx, criuCache(g.root))
			if err != nil {
				return err
			}
			rt := runtime.New(g.root, g.log)
			host, err := os.Hostname()
			if err != nil {
				return err
			}
			flags, err := ownFlags(g)
			if err != nil {
				return err
			}
			target := &migrate.Target{
				Runtime: rt, Binary: binary, CacheDir: criuCache(rt.Root()), Flags: flags, Host: host, Idle: idle, HoldBytes: hold, Log: g.log,
			}
			if err := target.Sweep(ctx); err != nil {
				g.log.Warn("remove what a crash left", "error", err.Error())
			}
			if err := tryCriu(ctx, g, binary); err != nil {
				return err
			}
			server, err := peer.Listen(ctx, listen, tlsDir)
			if err != nil {
				return err
			}
			server.Handler, server.Log = target, g.log
			go recoverMoves(ctx, g, rt)
			fmt.Printf("listening on %s\n", server.Address())
			return server.Serve(ctx)
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "", "address and port to listen on")
	f.StringVar(&tlsDir, "tls", "", "directory with this host's keys")
	f.DurationVar(&idle, "idle", defaultIdle, "how long a peer may be silent before it counts as lost")
	f.Int64Var(&hold, "hold", 16<<20, "bytes of network frames to keep for a pod during its pause")
	for _, name := range []string{"listen", "tls"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}

// tryCriu tries CRIU once after a boot, which makes it probe the kernel, too: neither should fall into a pod's pause. A machine that can't
// dump may take pods in.
func tryCriu(ctx context.Context, g *globals, binary *criu.Binary) error {
	err := criu.Tried(ctx, binary, criuCache(g.root))
	var trial *criu.TrialError
	switch {
	case err == nil:
	case ctx.Err() != nil || errors.As(err, &trial) && trial.Step != criu.TrialDump:
		return err
	case trial != nil:
		cause, hint := trial.Explain()
		g.log.Warn("pods that come here can't leave again: CRIU can't dump on this kernel", "criu", binary.VersionString(), "cause", cause, "hint", hint)
	default:
		g.log.Warn("try CRIU", "error", err.Error())
	}
	return nil
}
