package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/pod/migrate"
	"github.com/zap-migrate/zap/pod/peer"
)

const drainLong = `Move every pod that runs here to a peer, as zap migrate does, so that this host can be shut down.

A pod that can't be moved goes on here, and the others are moved all the same. Pods that have ended, and containers that
were made with the OCI verbs, stay where they are: name the latter in zap migrate.

Exit codes: 0 all pods run on the peer; else the highest of the codes with which zap migrate would have ended for the pods
that are left.`

// drain is one run of the verb.
type drain struct {
	flags    *migrateFlags
	parallel int
	options  migrate.Options
	client   *peer.Client

	mu   sync.Mutex
	left []string // pods that are still here, each with the reason
	code int
}

func newDrainCommand(g *globals) *cobra.Command {
	d := &drain{flags: new(migrateFlags)}
	cmd := &cobra.Command{
		Use:     "drain [flags] ADDR:PORT",
		Short:   "Move all pods to another host",
		Long:    drainLong,
		Example: "  zap drain --tls /etc/zap/keys/a 192.0.2.2:7800\n  zap drain --tls /etc/zap/keys/a --parallel 2 192.0.2.2:7800",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if d.parallel < 1 {
				return fmt.Errorf("flag --parallel: %d is not at least one", d.parallel)
			}
			if d.options, d.client, err = d.flags.options(g, args[0]); err != nil {
				return err
			}
			return d.run(cmd.Context(), g)
		},
	}
	d.flags.register(cmd.Flags())
	cmd.Flags().IntVar(&d.parallel, "parallel", 1, "move this many pods at the same time")
	return cmd
}

// run moves the pods.
func (d *drain) run(ctx context.Context, g *globals) error {
	views, err := listPods(g)
	if err != nil {
		return err
	}
	names := make(chan string)
	var group sync.WaitGroup
	for range d.parallel {
		group.Go(func() {
			for name := range names {
				d.note(name, d.flags.move(ctx, g, d.progress(name), d.options, d.client, name, nil))
			}
		})
	}
	all := 0
	for _, v := range views {
		if !v.Supervised || v.Status == pod.StatusStopped || v.Status == pod.StatusArriving {
			continue
		}
		all++
		names <- v.Name
	}
	close(names)
	group.Wait()
	return d.finished(all)
}

// progress shows the move of one pod; a line that is rewritten would be of several pods.
func (d *drain) progress(name string) *progress {
	show := newProgress(d.flags.format, os.Stdout, os.Stderr)
	show.pod = name
	if d.parallel > 1 {
		show.terminal = false
	}
	return show
}

// note keeps how the move of a pod ended.
func (d *drain) note(name string, err error) {
	if err == nil {
		return
	}
	code := 1
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.left, d.code = append(d.left, fmt.Sprintf("%s: %v", name, err)), max(d.code, code)
}

// finished tells of all pods, and makes the exit code.
func (d *drain) finished(all int) error {
	if d.flags.format == "json" {
		word := "drained"
		switch {
		case len(d.left) > 0:
			word = "left"
		case d.flags.check:
			word = "possible"
		}
		if err := json.NewEncoder(os.Stdout).Encode(map[string]any{"result": word, "peer": d.options.Peer, "pods": all, "left": len(d.left)}); err != nil {
			return err
		}
	}
	if len(d.left) == 0 {
		return nil
	}
	return &exitError{code: d.code, err: fmt.Errorf("drain to %s: %d of %d pods stay: %s", d.options.Peer, len(d.left), all, strings.Join(d.left, "; "))}
}
