package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/pod/migrate"
	"github.com/zap-migrate/zap/runtime"
)

func newPodLogsCommand(g *globals) *cobra.Command {
	o := pod.LogOptions{}
	cmd := &cobra.Command{
		Use: "logs POD", Short: "Print what a pod has written", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := pod.Load(runtime.New(g.root, g.log), args[0])
			if err != nil {
				return err
			}
			super := p.Record.Supervisor
			o.Done = func() bool { return !super.Alive() }
			return pod.ReadLog(cmd.Context(), pod.LogPath(p.Dir()), os.Stdout, os.Stderr, o)
		},
	}
	cmd.Flags().BoolVarP(&o.Follow, "follow", "f", false, "go on until the pod ends")
	cmd.Flags().BoolVarP(&o.Timestamps, "timestamps", "t", false, "print when each line was written")
	cmd.Flags().IntVarP(&o.Tail, "tail", "n", -1, "only this many lines from the end")
	return cmd
}

func newPodWaitCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "wait POD", Short: "Wait until a pod's program ends and print its exit code", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := pod.Load(runtime.New(g.root, g.log), args[0])
			if err != nil {
				return err
			}
			answer, err := pod.Ask(cmd.Context(), p.Dir(), pod.Request{Op: pod.OpWait})
			switch {
			case errors.Is(err, pod.ErrNoSupervisor):
				code, ok := pod.ReadExit(p.Dir())
				if !ok {
					return err
				}
				fmt.Println(code)
				return nil
			case err != nil:
				return err
			case answer.Moved != "":
				return fmt.Errorf("pod %s has moved to %s", args[0], answer.Moved)
			}
			fmt.Println(answer.Code)
			return nil
		},
	}
}

func newPodExecCommand(g *globals) *cobra.Command {
	exec := newExecCommand(g)
	exec.Use = "exec [flags] POD [--] COMMAND [ARG...]"
	exec.Short = "Run a further program in a pod"
	run := exec.RunE
	exec.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 && args[1] == "--" { // as in pod run; exec, as runc has it, takes it for the program
			args = slices.Delete(args, 1, 2)
		}
		return run(cmd, args)
	}
	return exec
}

func newPodRemoveCommand(g *globals) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "rm POD...", Aliases: []string{"remove"}, Short: "Remove pods and everything of theirs", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			for _, name := range args {
				if err := removePod(cmd.Context(), g, name, force); err != nil {
					errs = append(errs, fmt.Errorf("remove pod %s: %w", name, err))
				}
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "end a pod that runs")
	return cmd
}

// removeWithin bounds the removal of one pod.
const removeWithin = 60 * time.Second

func removePod(ctx context.Context, g *globals, name string, force bool) error {
	ctx, cancel := context.WithTimeout(ctx, removeWithin)
	defer cancel()
	rt := runtime.New(g.root, g.log)
	if err := checkMove(rt, name, force); err != nil {
		return err
	}
	if force {
		if err := migrate.CallOff(ctx, rt, name, dialJournal, g.log); err != nil {
			return err
		}
	}
	p, err := pod.Load(rt, name)
	if errors.Is(err, runtime.ErrNotExist) && force {
		return nil
	}
	if err != nil {
		return err
	}
	if p.Status() != pod.StatusStopped && !force {
		return fmt.Errorf("it is %s (--force ends it)", p.Status())
	}
	if err := p.End(ctx); err != nil {
		return err
	}
	return p.Delete(ctx, true)
}

// checkMove refuses to remove a pod that is in a move, unless it is forced.
func checkMove(rt *runtime.Runtime, name string, force bool) error {
	if err := runtime.CheckID(name); err != nil || force {
		return err
	}
	switch m, err := moveOf(rt.Dir(name)); {
	case err != nil:
		return err
	case m == nil:
		return nil
	case m.status == pod.StatusArriving:
		return fmt.Errorf("it is arriving from %s, in phase %s (--force drops it)", m.Peer, m.phase)
	default:
		return fmt.Errorf("it is moving to %s, in phase %s (--force calls the move off)", m.Peer, m.phase)
	}
}
