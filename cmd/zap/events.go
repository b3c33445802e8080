package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/runtime/cgroup"
)

// containerEvent is a line that events prints; the fields and their order are runc's.
type containerEvent struct {
	Type string          `json:"type"` // stats or oom
	ID   string          `json:"id"`
	Data *cgroup.Metrics `json:"data,omitempty"`
}

func newEventsCommand(g *globals) *cobra.Command {
	var interval time.Duration
	var once bool
	cmd := &cobra.Command{
		Use:   "events [flags] CONTAINER",
		Short: "Print what a container uses, and when it runs out of memory",
		Long: `Print what a container uses, every few seconds until it ends, and when it runs out of memory: a line of JSON for each, as runc
events does.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := runtime.New(g.root, g.log).Load(args[0])
			if err != nil {
				return err
			}
			if interval <= 0 {
				return errors.New("duration interval must be greater than 0")
			}
			if c.Status() == specs.StateStopped {
				return fmt.Errorf("container with id %s is not running", c.ID())
			}
			cg, err := c.Cgroup()
			if err != nil {
				return err
			}
			print := func(e containerEvent) error {
				e.ID = c.ID()
				return json.NewEncoder(cmd.OutOrStdout()).Encode(e)
			}
			if once {
				m, err := cg.Metrics()
				if err != nil {
					return err
				}
				return print(containerEvent{Type: "stats", Data: m})
			}
			return g.watch(cmd.Context(), cg, interval, print)
		},
	}
	cmd.Flags().DurationVar(&interval, "interval", 5*time.Second, "time between two lines about the use")
	cmd.Flags().BoolVar(&once, "stats", false, "print one line about the use and exit")
	return cmd
}

// watch prints events until the cgroup ends. Numbers that can't be read are logged and left out.
func (g *globals) watch(ctx context.Context, cg *cgroup.Cgroup, interval time.Duration, print func(containerEvent) error) error {
	ooms, err := cg.WatchOOM(ctx)
	if err != nil {
		return err
	}
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for {
		e := containerEvent{Type: "oom"}
		select {
		case _, ok := <-ooms:
			if !ok {
				return nil
			}
		case <-ticks.C:
			e.Type = "stats"
			if e.Data, err = cg.Metrics(); err != nil {
				g.log.Error(err.Error())
				continue
			}
		}
		if err := print(e); err != nil {
			return err
		}
	}
}
