package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
)

func newRunCommand(g *globals) *cobra.Command {
	r := new(runFlags)
	cmd := &cobra.Command{
		Use:   "run [flags] CONTAINER",
		Short: "Create a container, run its program and remove it at the end",
		Long: `Create a container, run its program and remove it at the end.

Without --detach it waits for the program, passes signals on to it and exits with its exit code, or 128 and the signal that ended it.`,
		Example: "zap run --bundle /var/lib/bundles/job job1\nzap run --detach --pid-file web1.pid web1\nzap run --keep job1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return r.run(cmd.Context(), g, args[0])
		},
	}
	r.register(cmd)
	cmd.Flags().BoolVar(&r.trace, "trace-boot", false, "print on standard error where the time of the start went, call by call")
	cmd.Flags().BoolVarP(&r.detach, "detach", "d", false, "leave the container running and return")
	cmd.Flags().BoolVar(&r.keep, "keep", false, "do not remove the container when its program ends")
	cmd.Flags().BoolVar(&r.noSubreaper, "no-subreaper", false, "do not adopt what the container's program leaves behind")
	return cmd
}

// runFlags are the flags of run.
type runFlags struct {
	createFlags
	detach, keep, noSubreaper bool
	trace                     bool
}

// run makes the container and runs its program.
func (r *runFlags) run(ctx context.Context, g *globals, id string) error {
	b, o, err := r.options(g)
	o.SystemdCgroup = g.systemdCgroup
	if r.trace {
		o.Trace = runtime.NewTrace(began)
		o.Trace.Mark("read flags, load config.json")
	}
	if err == nil {
		err = checkTerminal(b.Spec.Process.Terminal, r.detach, o.ConsoleSocket)
	}
	if err != nil {
		return fmt.Errorf("create container %s: %w", id, err)
	}
	rt := runtime.New(g.root, g.log)
	if r.dryRun {
		return printProgram(rt.DryRun(id, b, o, true))
	}
	n := newNotifier(rt, id)
	undo, err := n.prepare(b.Spec)
	if err != nil {
		return err
	}
	if err := n.listen(); err != nil {
		undo()
		return err
	}
	if r.detach {
		c, err := rt.Run(ctx, id, b, o)
		if err != nil {
			undo()
			return err
		}
		r.show(o.Trace)
		n.forward(ctx, c, c.State().Pid, g.log)
		return nil
	}
	// A signal ends the program, and the program's end this command.
	ctx = context.WithoutCancel(ctx)
	session, err := newSession(b.Spec.Process.Terminal)
	if err == nil && !r.noSubreaper && sharesPIDs(b.Spec) {
		err = session.adoptOrphans()
	}
	if err != nil {
		undo()
		return err
	}
	o.Console = session.console()
	defer session.close()
	c, err := rt.Run(ctx, id, b, o)
	if err != nil {
		undo()
		return err
	}
	r.show(o.Trace)
	go n.forward(ctx, c, os.Getpid(), g.log)
	code, err := session.wait(ctx, &runtime.Process{Pid: c.State().Pid})
	if !r.keep {
		err = errors.Join(err, c.Delete(ctx, true))
	}
	if err != nil {
		return err
	}
	return exitCode(code)
}

// show prints the trace that was asked for.
func (r *runFlags) show(t *runtime.Trace) {
	if t != nil {
		_ = t.Write(os.Stderr)
	}
}

// sharesPIDs says whether the container's first process is none that other processes of the container are left to when their parents end.
func sharesPIDs(s *specs.Spec) bool {
	if s.Linux == nil {
		return true
	}
	for _, ns := range s.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace {
			return ns.Path != ""
		}
	}
	return true
}
