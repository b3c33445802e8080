package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/spec"
)

func newRestoreCommand(g *globals) *cobra.Command {
	f := new(imageFlags)
	create := new(createFlags)
	var detach bool
	cmd := &cobra.Command{
		Use:   "restore [flags] CONTAINER",
		Short: "Make a container from the images of a checkpoint and let it go on",
		Long: `Make a container from the images of a checkpoint and let it go on.

The bundle says what takes the place of everything that lies on the host: bind mounts, namespaces with a path, the cgroup and its limits.
Without --detach it waits for the program, passes signals on to it and exits with its exit code, or 128 and the signal that ended it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, o, err := create.options(g)
			if err != nil {
				return err
			}
			o.SystemdCgroup = g.systemdCgroup
			if err := f.finish(cmd.Context(), g); err != nil {
				return err
			}
			rt := runtime.New(g.root, g.log)
			if detach {
				_, err := rt.Restore(cmd.Context(), args[0], b, o, f.ImageOptions)
				return err
			}
			return restoreHere(cmd.Context(), rt, args[0], b, o, f.ImageOptions)
		},
	}
	fs := cmd.Flags()
	create.register(cmd)
	f.register(fs)
	fs.BoolVarP(&detach, "detach", "d", false, "leave the container running and return")
	fs.BoolVar(&f.TCPClose, "tcp-close", false, "close the TCP connections of the images")
	fs.StringVar(&f.LSMProfile, "lsm-profile", "", "security label instead of that of the images: selinux:LABEL or apparmor:PROFILE")
	fs.StringVar(&f.LSMMountContext, "lsm-mount-context", "", "SELinux context of the mounts")
	fs.Bool("no-subreaper", false, "accepted: zap adopts no processes")
	return cmd
}

// restoreHere restores a container, waits for its end and removes it.
func restoreHere(ctx context.Context, rt *runtime.Runtime, id string, b *spec.Bundle, o runtime.CreateOptions, images runtime.ImageOptions) error {
	// A signal ends the program, and the program's end this command.
	ctx = context.WithoutCancel(ctx)
	session, err := newSession(b.Spec.Process.Terminal && o.ConsoleSocket == "")
	if err != nil {
		return err
	}
	o.Console = session.console()
	defer session.close()
	c, err := rt.Restore(ctx, id, b, o, images)
	if err != nil {
		return err
	}
	code, err := session.wait(ctx, &runtime.Process{Pid: c.State().Pid})
	if err := errors.Join(err, c.Delete(ctx, true)); err != nil {
		return err
	}
	return exitCode(code)
}
