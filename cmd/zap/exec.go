package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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
	tty, detach, noNewPrivs, noNewPrivsSet, ignorePaused                     bool
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
	fs.StringArrayVar(&f.cgroup, "cgroup", nil, "[CONTROLLER[,...]:]PATH of a cgroup below the container's to run in; may be given again")
	fs.BoolVar(&f.ignorePaused, "ignore-paused", false, "run in a paused container too")
}

func newExecCommand(g *globals) *cobra.Command {
	f := new(execFlags)
	cmd := &cobra.Command{
		Use:   "exec [flags] CONTAINER COMMAND [ARG...] | --process FILE CONTAINER",
		Short: "Run another process in a container",
		Long: `Run another process in a container: in its namespaces and its cgroup, with the user, environment and rights of the
container's own program except for what flags change, or with all that FILE says.

Without --detach it waits for the process, passes signals on to it and exits with its exit code, or 128 and the signal that ended it. When the
process can't be run the exit code is 255.`,
		Example: "zap exec web1 ps\nzap exec -t web1 sh\nzap exec -u 1000:1000 -e LANG=C --cwd /srv web1 ls -l\nzap exec --process process.json --detach --pid-file p.pid web1",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.noNewPrivsSet = cmd.Flags().Changed("no-new-privs")
			code, err := f.run(cmd.Context(), runtime.New(g.root, g.log), args)
			if err != nil {
				return &exitError{code: 255, err: err}
			}
			return exitCode(code)
		},
	}
	f.register(cmd)
	return cmd
}

// run finds the container and runs the process.
func (f *execFlags) run(ctx context.Context, rt *runtime.Runtime, args []string) (int, error) {
	c, err := rt.Load(args[0])
	if err != nil {
		return 0, err
	}
	if c.Exposed() {
		if err := runtime.Shelter(); err != nil {
			return 0, fmt.Errorf("exec in container %s: %w", args[0], err)
		}
	}
	o, err := f.options(c.State().Bundle.Spec.Process, args[1:])
	if err == nil {
		err = checkTerminal(o.Process.Terminal, f.detach, o.ConsoleSocket)
	}
	if err != nil {
		return 0, fmt.Errorf("exec in container %s: %w", args[0], err)
	}
	return execForeground(ctx, c, o, f.detach)
}

// execForeground runs a process and, unless it is detached, waits for its exit code.
func execForeground(ctx context.Context, c *runtime.Container, o runtime.ExecOptions, detach bool) (int, error) {
	if detach {
		_, err := c.Exec(ctx, o)
		return 0, err
	}
	ctx = context.WithoutCancel(ctx)
	session, err := newSession(o.Process.Terminal && o.ConsoleSocket == "")
	if err != nil {
		return 0, err
	}
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
		ConsoleSocket: f.consoleSocket, PidfdSocket: f.pidfdSocket, PidFile: f.pidFile, PreserveFDs: f.preserveFDs,
		IgnorePaused: f.ignorePaused, Document: "command line",
	}
	err := checkDescriptors(0, f.preserveFDs)
	if err == nil {
		o.Cgroups, err = subCgroups(f.cgroup)
	}
	if err != nil {
		return o, err
	}
	if f.process != "" {
		o.Document = f.process
		o.Process, err = loadProcess(f.process)
		return o, err
	}
	if len(argv) == 0 {
		return o, errors.New("exec args cannot be empty: name a command, or give --process")
	}
	o.Process, err = f.change(base, argv)
	return o, err
}

// change copies the container's own process and applies the flags.
func (f *execFlags) change(base *specs.Process, argv []string) (*specs.Process, error) {
	p := *base
	p.Args, p.Terminal, p.ConsoleSize = argv, f.tty, nil
	p.Env = append(slices.DeleteFunc(slices.Clone(base.Env), ofServiceManager), f.env...)
	if f.noNewPrivsSet {
		p.NoNewPrivileges = f.noNewPrivs
	}
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

// ofServiceManager says whether a variable is meant for the container's first process only: it got the descriptors and the socket.
func ofServiceManager(variable string) bool {
	return strings.HasPrefix(variable, "LISTEN_FDS=") || strings.HasPrefix(variable, "LISTEN_PID=") ||
		strings.HasPrefix(variable, "NOTIFY_SOCKET="+notifyInside+"/")
}

// addCapabilities copies capability sets and adds to them. Ambient capabilities have to be inheritable, and that is nothing to add by the
// way: they are added where the process has inheritable ones of its own.
func addCapabilities(base *specs.LinuxCapabilities, names []string) *specs.LinuxCapabilities {
	if len(names) == 0 {
		return base
	}
	out := new(specs.LinuxCapabilities)
	if base != nil {
		*out = *base
	}
	sets := []*[]string{&out.Bounding, &out.Effective, &out.Permitted}
	if out.Inheritable != nil {
		sets = append(sets, &out.Ambient)
	}
	for _, set := range sets {
		*set = append(slices.Clone(*set), names...)
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
