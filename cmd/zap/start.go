package main

import (
	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
)

func newStartCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "start CONTAINER",
		Short: "Run the program of a container that was created",
		Long: `Run the program of a container that zap create has made. The command returns when the program runs, and fails when it can't be executed.

Where NOTIFY_SOCKET names the socket of a service manager, it waits until the program says that it is ready, and passes that on.`,
		Example: "zap start web1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rt := runtime.New(g.root, g.log)
			c, err := rt.Load(args[0])
			if err != nil {
				return err
			}
			n := newNotifier(rt, args[0])
			if err := n.listen(); err != nil {
				return err
			}
			if err := c.Start(cmd.Context()); err != nil {
				return err
			}
			n.forward(cmd.Context(), c, c.State().Pid, g.log)
			return nil
		},
	}
}
