package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime"
)

func newRunCommand(g *globals) *cobra.Command {
	f := new(createFlags)
	var detach, keep bool
	cmd := &cobra.Command{
		Use:   "run [flags] CONTAINER",
		Short: "Create a container, run its program and remove it at the end",
		Long: `Create a container, run its program and remove it at the end.

Without --detach it waits for the program, passes signals on to it and exits with its exit code, or 128 and the signal that ended it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, o, err := f.options()
			if err != nil {
				return err
			}
			rt := runtime.New(g.root, g.log)
			if detach {
				_, err := rt.Run(cmd.Context(), args[0], b, o)
				return err
			}
			// A signal ends the program, and the program's end this command.
			ctx := context.WithoutCancel(cmd.Context())
			session := newSession(b.Spec.Process.Terminal && o.ConsoleSocket == "")
			o.Console = session.console()
			defer session.close()
			c, err := rt.Run(ctx, args[0], b, o)
			if err != nil {
				return err
			}
			code, err := session.wait(ctx, &runtime.Process{Pid: c.State().Pid})
			if !keep {
				err = errors.Join(err, c.Delete(ctx, true))
			}
			if err != nil {
				return err
			}
			return exitCode(code)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "leave the container running and return")
	cmd.Flags().BoolVar(&keep, "keep", false, "do not remove the container when its program ends")
	cmd.Flags().Bool("no-subreaper", false, "accepted: zap adopts no processes")
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// session is a program in the foreground: it gets this command's signals, and its terminal is this command's.
type session struct {
	signals  chan os.Signal
	terminal *terminal // nil without one
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
