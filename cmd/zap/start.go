package main

import (
	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
)

func newStartCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "start CONTAINER",
		Short: "Run the program of a container that was created",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := runtime.New(g.root, g.log).Load(args[0])
			if err != nil {
				return err
			}
			return c.Start(cmd.Context())
		},
	}
}
