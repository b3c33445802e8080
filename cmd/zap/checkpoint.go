package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/runtime"
)

// imageFlags are the flags that checkpoint and restore share.
type imageFlags struct {
	runtime.ImageOptions
	emptyNS []string
}

func (f *imageFlags) register(fs *pflag.FlagSet) {
	fs.StringVar(&f.Images, "image-path", "checkpoint", "directory of the images")
	fs.StringVar(&f.Work, "work-path", "", "directory of logs and statistics (default: that of the images)")
	fs.StringVar(&f.Parent, "parent-path", "", "directory of a pre-dump to continue, relative to the images")
	fs.BoolVar(&f.TCPEstablished, "tcp-established", false, "take established TCP connections along")
	fs.BoolVar(&f.ExtUnixSk, "ext-unix-sk", false, "allow unix sockets whose other end is outside")
	fs.BoolVar(&f.ShellJob, "shell-job", false, "allow a session whose leader is outside, as a shell's job has")
	fs.Bool("file-locks", false, "accepted: file locks are always taken along")
	fs.StringVar(&f.CgroupsMode, "manage-cgroups-mode", "", "what CRIU does about cgroups: soft, full, strict or ignore (default: ignore, zap makes the cgroup)")
	fs.StringArrayVar(&f.emptyNS, "empty-ns", nil, "kind of namespace whose content is left out: network, which always is")
	fs.BoolVar(&f.AutoDedup, "auto-dedup", false, "free the memory in a parent's images that a later image has")
	fs.BoolVar(&f.LazyPages, "lazy-pages", false, "copy memory when it is asked for (userfaultfd)")
}

// finish checks the flags and finds CRIU.
func (f *imageFlags) finish(ctx context.Context, g *globals) (err error) {
	for _, ns := range f.emptyNS {
		if ns != "network" {
			return fmt.Errorf("flag --empty-ns: namespace %q is not supported", ns)
		}
	}
	for _, path := range []*string{&f.Images, &f.Work} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	f.Cache = criuCache(g.root)
	f.CRIU, err = criu.Find(ctx, f.Cache)
	return err
}

func newCheckpointCommand(g *globals) *cobra.Command {
	f := new(imageFlags)
	var o runtime.CheckpointOptions
	var statusFD int
	cmd := &cobra.Command{
		Use:   "checkpoint [flags] CONTAINER",
		Short: "Save a running container to images, from which restore makes it again",
		Long: `Save a running container to images, from which restore makes it again.

The images are CRIU's, with what else runc writes: each of the two can restore what the other has saved. Unless --leave-running is given
the container is removed. Its TCP connections are then held for an hour where they were, so that their peers wait for the restore.`,
		Example: `  zap checkpoint --image-path /var/lib/images/web --tcp-established web
  zap restore --detach --bundle /bundles/web --image-path /var/lib/images/web web`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := runtime.New(g.root, g.log).Load(args[0])
			if err != nil {
				return err
			}
			if err := f.finish(cmd.Context(), g); err != nil {
				return err
			}
			o.ImageOptions = f.ImageOptions
			if statusFD >= 0 {
				if o.StatusFile, err = statusFile(statusFD); err != nil {
					return err
				}
			}
			if err := checkBlockers(c); err != nil {
				return err
			}
			if err := c.Checkpoint(cmd.Context(), o); err != nil {
				return explainCheckpoint(c, err)
			}
			return nil
		},
	}
	fs := cmd.Flags()
	f.register(fs)
	fs.BoolVar(&o.LeaveRunning, "leave-running", false, "let the container go on")
	fs.BoolVar(&o.PreDump, "pre-dump", false, "save memory only and let the container go on, for a checkpoint that continues from there")
	fs.BoolVar(&f.TCPSkipInFlight, "tcp-skip-in-flight", false, "leave out TCP connections that are not accepted yet")
	fs.Bool("link-remap", false, "accepted: files that were unlinked are always linked back when possible")
	fs.StringVar(&f.PageServer, "page-server", "", "ADDRESS:PORT that memory is sent to, or with --lazy-pages is asked for at")
	fs.IntVar(&statusFD, "status-fd", -1, "descriptor that gets a zero byte when lazy pages can be asked for")
	return cmd
}

// statusFile takes over a descriptor that must be open for writing.
func statusFile(fd int) (*os.File, error) {
	f := os.NewFile(uintptr(fd), "status-fd")
	if f == nil {
		return nil, fmt.Errorf("invalid --status-fd argument %d", fd)
	}
	if _, err := f.Write(nil); err != nil {
		return nil, fmt.Errorf("invalid --status-fd argument %d: %w", fd, err)
	}
	return f, nil
}
