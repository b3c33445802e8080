package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
)

func newPauseCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "pause CONTAINER",
		Short: "Stop all processes of a container until it is resumed",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadSettled(g, args[0])
			if err != nil {
				return err
			}
			return c.Pause(cmd.Context())
		},
	}
}

func newResumeCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "resume CONTAINER",
		Short: "Let the processes of a paused container run again",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadSettled(g, args[0])
			if err != nil {
				return err
			}
			return c.Resume(cmd.Context())
		},
	}
}

// loadSettled loads a container that is not being moved: a move freezes, thaws and copies, and does not expect others to.
func loadSettled(g *globals, id string) (*runtime.Container, error) {
	c, err := runtime.New(g.root, g.log).Load(id)
	if err != nil {
		return nil, err
	}
	m, err := moveOf(c.Dir())
	if err != nil {
		return nil, err
	}
	if m != nil {
		return nil, fmt.Errorf("container %s is %s: wait for the end of the move", id, m.status)
	}
	return c, nil
}
