package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/spec"
)

// createFlags are the flags that create and run share.
type createFlags struct {
	bundle, consoleSocket, pidfdSocket, pidFile string
	noPivot, noNewKeyring                       bool
	preserveFDs                                 int
	dryRun                                      bool
}

func (f *createFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVarP(&f.bundle, "bundle", "b", "", "directory of the bundle (default: the current directory)")
	fs.StringVar(&f.consoleSocket, "console-socket", "", "unix socket that gets the terminal's master")
	fs.StringVar(&f.pidfdSocket, "pidfd-socket", "", "unix socket that gets a pidfd of the process")
	fs.StringVar(&f.pidFile, "pid-file", "", "file to write the process's pid to")
	fs.BoolVar(&f.noPivot, "no-pivot", false, "move the root instead of exchanging it, for hosts that run from a ramdisk")
	fs.BoolVar(&f.noNewKeyring, "no-new-keyring", false, "keep the caller's session keyring")
	fs.BoolVar(&f.dryRun, "dry-run", false, "print the system calls that would be made, and make none")
	fs.IntVar(&f.preserveFDs, "preserve-fds", 0, "number of descriptors from 3 on to pass to the container")
}

// options reads the bundle and turns the flags into options.
func (f *createFlags) options(g *globals) (*spec.Bundle, runtime.CreateOptions, error) {
	b, err := spec.Load(f.bundle)
	if err != nil {
		return nil, runtime.CreateOptions{}, err
	}
	listen := listenFDs()
	if listen > 0 {
		b.Spec.Process.Env = append(b.Spec.Process.Env, "LISTEN_FDS="+strconv.Itoa(listen), "LISTEN_PID=1")
	}
	return b, runtime.CreateOptions{
		ConsoleSocket: f.consoleSocket, PidFile: f.pidFile, PidfdSocket: f.pidfdSocket, PreserveFDs: listen + f.preserveFDs,
		NoPivot: f.noPivot, NoNewKeyring: f.noNewKeyring, Rootless: g.isRootless(),
	}, checkDescriptors(listen, f.preserveFDs)
}

// listenFDs is how many descriptors a service manager passed to this process (sd_listen_fds(3)).
func listenFDs() int {
	if pid, err := strconv.Atoi(os.Getenv("LISTEN_PID")); err != nil || pid != os.Getpid() {
		return 0
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > 1024 {
		return 0
	}
	return n
}

// checkDescriptors makes sure that the descriptors to preserve are open: behind the standard streams and those of the service manager.
func checkDescriptors(listen, preserve int) error {
	if preserve < 0 {
		return fmt.Errorf("flag --preserve-fds: %d is negative", preserve)
	}
	for fd := 3 + listen; fd < 3+listen+preserve; fd++ {
		// What this process has opened itself is closed at an execve, what it has inherited is not.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
			return fmt.Errorf("flag --preserve-fds: descriptor %d: %w", fd, unix.EBADF)
		}
	}
	return nil
}

// Somebody has to hold the master of a terminal: this command while it waits for the program, or else whoever listens on a socket.
var (
	errNoTerminal = errors.New("cannot allocate tty if runc will detach without setting console socket " +
		"(flag --console-socket; process.terminal)")
	errTwoTerminals = errors.New("cannot use console socket if runc will not detach or allocate tty " +
		"(flag --console-socket; process.terminal)")
)

// checkTerminal says whether the flags suit a process with or without a terminal. The texts are runc's.
func checkTerminal(terminal, detach bool, socket string) error {
	switch {
	case terminal && detach && socket == "":
		return errNoTerminal
	case socket != "" && !(terminal && detach):
		return errTwoTerminals
	}
	return nil
}

func newCreateCommand(g *globals) *cobra.Command {
	f := new(createFlags)
	cmd := &cobra.Command{
		Use:   "create [flags] CONTAINER",
		Short: "Create a container, whose program waits for start",
		Long: `Create a container from a bundle: a directory with a config.json and a root file system. Everything is made and checked, and the
program waits for zap start. The container's name has to be new.

The program gets the standard streams of this command, or a terminal whose master is sent to --console-socket.`,
		Example: "zap create --bundle /var/lib/bundles/web web1\nzap create -b . --pid-file web1.pid --console-socket tty.sock web1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			b, o, err := f.options(g)
			o.SystemdCgroup = g.systemdCgroup
			if err != nil {
				return fmt.Errorf("create container %s: %w", args[0], err)
			}
			if err := checkTerminal(b.Spec.Process.Terminal, true, o.ConsoleSocket); err != nil {
				return fmt.Errorf("create container %s: %w", args[0], err)
			}
			rt := runtime.New(g.root, g.log)
			if f.dryRun {
				return printProgram(rt.DryRun(args[0], b, o, false))
			}
			undo, err := newNotifier(rt, args[0]).prepare(b.Spec)
			if err != nil {
				return err
			}
			if _, err = rt.Create(cmd.Context(), args[0], b, o); err != nil {
				undo()
			}
			return err
		},
	}
	f.register(cmd)
	return cmd
}
