package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/spec"
)

// createFlags are the flags that create and run share.
type createFlags struct {
	bundle, consoleSocket, pidfdSocket, pidFile string
	noPivot, noNewKeyring                       bool
	preserveFDs                                 int
}

func (f *createFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVarP(&f.bundle, "bundle", "b", "", "directory of the bundle (default: the current directory)")
	fs.StringVar(&f.consoleSocket, "console-socket", "", "unix socket that gets the terminal's master")
	fs.StringVar(&f.pidfdSocket, "pidfd-socket", "", "unix socket that gets a pidfd of the process")
	fs.StringVar(&f.pidFile, "pid-file", "", "file to write the process's pid to")
	fs.BoolVar(&f.noPivot, "no-pivot", false, "move the root instead of exchanging it, for hosts that run from a ramdisk")
	fs.BoolVar(&f.noNewKeyring, "no-new-keyring", false, "keep the caller's session keyring")
	fs.IntVar(&f.preserveFDs, "preserve-fds", 0, "number of descriptors from 3 on to pass to the container")
}

// options reads the bundle and turns the flags into options.
func (f *createFlags) options() (*spec.Bundle, runtime.CreateOptions, error) {
	b, err := spec.Load(f.bundle)
	if err != nil {
		return nil, runtime.CreateOptions{}, err
	}
	if n := listenFDs(); n > 0 {
		b.Spec.Process.Env = append(b.Spec.Process.Env, "LISTEN_FDS="+strconv.Itoa(n), "LISTEN_PID=1")
	}
	return b, runtime.CreateOptions{
		ConsoleSocket: f.consoleSocket, PidFile: f.pidFile, PidfdSocket: f.pidfdSocket, PreserveFDs: f.preserveFDs + listenFDs(),
		NoPivot: f.noPivot, NoNewKeyring: f.noNewKeyring,
	}, nil
}

// listenFDs is how many descriptors a service manager passed for the container (sd_listen_fds(3)).
func listenFDs() int {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > 1024 {
		return 0
	}
	return n
}

func newCreateCommand(g *globals) *cobra.Command {
	f := new(createFlags)
	cmd := &cobra.Command{
		Use:   "create [flags] CONTAINER",
		Short: "Create a container, whose program waits for start",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, o, err := f.options()
			if err != nil {
				return err
			}
			if b.Spec.Process.Terminal && o.ConsoleSocket == "" {
				return fmt.Errorf("create container %s: flag --console-socket: needed for a terminal (config.json: process.terminal)", args[0])
			}
			if !b.Spec.Process.Terminal && o.ConsoleSocket != "" {
				return fmt.Errorf("create container %s: flag --console-socket: the container has no terminal (config.json: process.terminal)", args[0])
			}
			_, err = runtime.New(g.root, g.log).Create(cmd.Context(), args[0], b, o)
			return err
		},
	}
	f.register(cmd)
	return cmd
}
