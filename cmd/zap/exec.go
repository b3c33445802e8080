package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/spec"
)

// execFlags are the flags of exec.
type execFlags struct {
	consoleSocket, pidfdSocket, cwd, user, process, pidFile, label, apparmor string
	env, caps                                                                []string
	groups                                                                   []uint
	tty, detach, noNewPrivs, ignorePaused                                    bool
	preserveFDs                                                              int
	cgroup                                                                   []string
}

func (f *execFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.SetInterspersed(false)
	fs.StringVar(&f.consoleSocket, "console-socket", "", "unix socket that gets the terminal's master")
	fs.StringVar(&f.pidfdSocket, "pidfd-socket", "", "unix socket that gets a pidfd of the process")
	fs.StringVar(&f.cwd, "cwd", "", "working directory in the container")
	fs.StringArrayVarP(&f.env, "env", "e", nil, "variable K=V of the environment; may be given again")
	fs.BoolVarP(&f.tty, "tty", "t", false, "give the process a terminal")
	fs.StringVarP(&f.user, "user", "u", "", "user and group, UID[:GID]")
	fs.UintSliceVarP(&f.groups, "additional-gids", "g", nil, "supplementary group; may be given again")
	fs.StringVarP(&f.process, "process", "p", "", "file with the process as JSON")
	fs.BoolVarP(&f.detach, "detach", "d", false, "leave the process running and return")
	fs.StringVar(&f.pidFile, "pid-file", "", "file to write the process's pid to")
	fs.StringVar(&f.label, "process-label", "", "SELinux label (not supported yet)")
	fs.StringVar(&f.apparmor, "apparmor", "", "AppArmor profile (not supported yet)")
	fs.BoolVar(&f.noNewPrivs, "no-new-privs", false, "set no_new_privs")
	fs.StringArrayVarP(&f.caps, "cap", "c", nil, "capability to add; may be given again")
	fs.IntVar(&f.preserveFDs, "preserve-fds", 0, "number of descriptors from 3 on to pass to the process")
	fs.StringArrayVar(&f.cgroup, "cgroup", nil, "run in a cgroup below the container's (not supported yet)")
	fs.BoolVar(&f.ignorePaused, "ignore-paused", false, "run in a paused container too")
}

func newExecCommand(g *globals) *cobra.Command {
	f := new(execFlags)
	cmd := &cobra.Command{
		Use:   "exec [flags] CONTAINER COMMAND [ARG...] | --process FILE CONTAINER",
		Short: "Run another process in a container",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := runtime.New(g.root, g.log).Load(args[0])
			if err != nil {
				return err
			}
			o, err := f.options(c.State().Bundle.Spec.Process, args[1:])
			if err != nil {
				return fmt.Errorf("exec in container %s: %w", args[0], err)
			}
			code, err := execForeground(cmd.Context(), c, o, f.detach)
			if err != nil {
				return &exitError{code: 255, err: err}
			}
			return exitCode(code)
		},
	}
	f.register(cmd)
	return cmd
}

// execForeground runs a process and, unless it is detached, waits for its exit code.
func execForeground(ctx context.Context, c *runtime.Container, o runtime.ExecOptions, detach bool) (int, error) {
	if detach {
		if o.Process.Terminal && o.ConsoleSocket == "" {
			return 0, errNoTerminal
		}
		_, err := c.Exec(ctx, o)
		return 0, err
	}
	ctx = context.WithoutCancel(ctx)
	session := newSession(o.Process.Terminal && o.ConsoleSocket == "")
	o.Console = session.console()
	defer session.close()
	p, err := c.Exec(ctx, o)
	if err != nil {
		return 0, err
	}
	return session.wait(ctx, p)
}

// options describes the process: what --process has, or the container's own process changed by the flags.
func (f *execFlags) options(base *specs.Process, argv []string) (runtime.ExecOptions, error) {
	o := runtime.ExecOptions{
		ConsoleSocket: f.consoleSocket, PidfdSocket: f.pidfdSocket, PidFile: f.pidFile, PreserveFDs: f.preserveFDs + listenFDs(),
		IgnorePaused: f.ignorePaused, Document: "command line",
	}
	if len(f.cgroup) > 0 {
		return o, errors.New("flag --cgroup: not supported yet")
	}
	var err error
	if f.process != "" {
		o.Document = f.process
		o.Process, err = loadProcess(f.process)
		return o, err
	}
	if len(argv) == 0 {
		return o, errors.New("no command")
	}
	o.Process, err = f.change(base, argv)
	return o, err
}

// change copies the container's own process and applies the flags.
func (f *execFlags) change(base *specs.Process, argv []string) (*specs.Process, error) {
	p := *base
	p.Args, p.Terminal, p.ConsoleSize = argv, f.tty, nil
	p.Env = append(append([]string(nil), base.Env...), f.env...)
	p.NoNewPrivileges = base.NoNewPrivileges || f.noNewPrivs
	if f.cwd != "" {
		p.Cwd = f.cwd
	}
	if f.apparmor != "" {
		p.ApparmorProfile = f.apparmor
	}
	if f.label != "" {
		p.SelinuxLabel = f.label
	}
	for _, g := range f.groups {
		p.User.AdditionalGids = append(p.User.AdditionalGids[:len(p.User.AdditionalGids):len(p.User.AdditionalGids)], uint32(g))
	}
	p.Capabilities = addCapabilities(base.Capabilities, f.caps)
	if f.user == "" {
		return &p, nil
	}
	uid, gid, both := strings.Cut(f.user, ":")
	u, err := strconv.ParseUint(uid, 10, 32)
	g := uint64(0)
	if err == nil && both {
		g, err = strconv.ParseUint(gid, 10, 32)
	}
	if err != nil {
		return nil, fmt.Errorf("flag --user: %q is not UID[:GID]", f.user)
	}
	p.User.UID = uint32(u)
	if both {
		p.User.GID = uint32(g)
	}
	return &p, nil
}

// addCapabilities copies capability sets and adds to all of them.
func addCapabilities(base *specs.LinuxCapabilities, names []string) *specs.LinuxCapabilities {
	if len(names) == 0 {
		return base
	}
	out := new(specs.LinuxCapabilities)
	if base != nil {
		*out = *base
	}
	for _, set := range []*[]string{&out.Bounding, &out.Effective, &out.Permitted, &out.Inheritable, &out.Ambient} {
		*set = append(append([]string(nil), *set...), names...)
	}
	return out
}

// loadProcess reads a process as JSON, at most as large as a bundle's configuration.
func loadProcess(path string) (*specs.Process, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, spec.MaxConfigSize))
	if err != nil {
		return nil, err
	}
	p := new(specs.Process)
	if err := json.Unmarshal(data, p); err != nil {
		return nil, fmt.Errorf("read process %s: %w", path, err)
	}
	return p, spec.ValidateProcess(p)
}
