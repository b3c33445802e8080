package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/pod/migrate"
	"github.com/zap-migrate/zap/pod/peer"
	"github.com/zap-migrate/zap/runtime"
)

// verdictFor is how long a guard tries to tell the target what was decided;
// after that `zap serve` or the next `zap migrate` of the pod goes on.
const verdictFor = 24 * time.Hour

func newGuardCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "guard POD", Hidden: true, Args: cobra.ExactArgs(1),
		Short: "Bring a move to its end if its coordinator dies",
		RunE: func(_ *cobra.Command, args []string) error {
			pipe := os.NewFile(migrate.GuardDescriptor, "coordinator")
			if pipe == nil {
				return errors.New("guard: started by hand")
			}
			if !migrate.AwaitCoordinator(pipe) {
				return nil
			}
			ctx, cancel := context.WithTimeout(context.Background(), verdictFor)
			defer cancel()
			return migrate.TakeOver(ctx, runtime.New(g.root, g.log), args[0], dialJournal, g.log)
		},
	}
}

// dialJournal connects to the peer that a journal names.
func dialJournal(j *migrate.Journal) (migrate.Dialer, error) {
	return peer.NewClient(j.Peer, j.TLS)
}

// recoverMoves brings the moves to their end whose coordinator and guard are
// gone, as after a restart of the host.
func recoverMoves(ctx context.Context, g *globals, rt *runtime.Runtime) {
	all, err := rt.List()
	if err != nil {
		g.log.Warn("list pods", "error", err.Error())
	}
	for _, c := range all {
		go func() {
			err := migrate.Recover(ctx, rt, c.ID(), dialJournal, g.log)
			if err != nil && !errors.Is(err, migrate.ErrBusy) {
				g.log.Warn("bring a move to its end", "pod", c.ID(), "error", err.Error())
			}
		}()
	}
}
