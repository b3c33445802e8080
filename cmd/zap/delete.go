package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
)

func newDeleteCommand(g *globals) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "delete [flags] CONTAINER",
		Short: "Remove a container that has stopped",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := runtime.New(g.root, g.log).Load(args[0])
			if force && errors.Is(err, runtime.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			return c.Delete(cmd.Context(), force)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill what still runs; a container that is not there is no error")
	return cmd
}
