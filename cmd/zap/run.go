package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

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
	session := newSession(b.Spec.Process.Terminal)
	session.adopt = !r.noSubreaper && sharesPIDs(b.Spec)
	o.Console = session.console()
	defer session.close()
	if session.adopt {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("adopt processes: %w", err)
		}
	}
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

// session is a program in the foreground: it gets this command's signals, and its terminal is this command's.
type session struct {
	signals  chan os.Signal
	terminal *terminal // nil without one
	adopt    bool      // orphans of the container become children of this process
}

// promptSignals are passed on from the first moment. To ask the Go runtime for one signal takes two switches between threads, and there
// are sixty: the others are asked for after restDelay, which programs that end at once do not live to see.
var promptSignals = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGCONT,
	unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGWINCH,
}

// restDelay is when the rest of the signals is passed on as well.
const restDelay = 100 * time.Millisecond

func newSession(tty bool) *session {
	s := &session{signals: make(chan os.Signal, 64)}
	if tty {
		s.terminal = new(terminal)
	}
	signal.Notify(s.signals, promptSignals...)
	signal.Ignore(unix.SIGPIPE)
	return s
}

// console returns what takes the master of the program's terminal.
func (s *session) console() func(*os.File) error {
	if s.terminal == nil {
		return nil
	}
	return s.terminal.take
}

// wait passes signals on until the program ends, and returns its exit code.
func (s *session) wait(ctx context.Context, p *runtime.Process) (int, error) {
	type result struct {
		code int
		err  error
	}
	done := make(chan result, 1)
	go func() {
		if s.adopt {
			reapUntil(p.Pid)
		}
		code, err := p.Wait(ctx)
		done <- result{code, err}
	}()
	rest := time.After(restDelay)
	for {
		select {
		case <-rest:
			signal.Notify(s.signals)
		case r := <-done:
			if s.terminal != nil {
				s.terminal.drain()
			}
			return r.code, r.err
		case sig := <-s.signals:
			s.pass(sig.(unix.Signal), p.Pid)
		}
	}
}

// reapUntil waits for adopted processes, until pid has ended, which is left to be waited for.
func reapUntil(pid int) {
	for {
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return
		}
		ended := childOf(&info)
		if ended == pid || ended == 0 {
			return
		}
		_, _ = unix.Wait4(ended, nil, 0, nil)
	}
}

// childOf is the process that a SIGCHLD's information is about: the field behind the three numbers that all signals have.
func childOf(info *unix.Siginfo) int {
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(info), 16)))
}

// pass gives the program a signal that this command got.
func (s *session) pass(sig unix.Signal, pid int) {
	switch sig {
	case unix.SIGCHLD, unix.SIGURG, unix.SIGPIPE:
	case unix.SIGWINCH:
		if s.terminal != nil {
			s.terminal.resize()
			return
		}
		_ = unix.Kill(pid, sig)
	default:
		_ = unix.Kill(pid, sig) // the process is this one's child and not waited for yet, so the pid is its
	}
}

func (s *session) close() {
	// Signals stay caught: what comes while the container is removed must not end that half-way.
	if s.terminal != nil {
		s.terminal.close()
	}
}
