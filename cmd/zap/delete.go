package main

import (
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
)

func newDeleteCommand(g *globals) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "delete [flags] CONTAINER",
		Short: "Remove a container that has stopped",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rt := runtime.New(g.root, g.log)
			p, err := pod.Load(rt, args[0])
			if force && errors.Is(err, runtime.ErrNotExist) {
				return rt.Discard(cmd.Context(), args[0])
			}
			if err != nil {
				return err
			}
			if p.Supervised() && (force || p.Status() == specs.StateStopped) {
				// A container that has moved here has a supervisor, which puts away what it owns.
				if err := p.End(cmd.Context()); err != nil {
					return err
				}
			}
			return p.Delete(cmd.Context(), force)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill what still runs; a container that is not there is no error")
	return cmd
}
