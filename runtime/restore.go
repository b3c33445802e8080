package runtime

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/spec"
)

// restoreDir is where a CRIU session finds the container's file systems, in
// its own mount namespace: nothing of them is ever mounted on the host.
const restoreDir = "/run/zap"

// RestoreRequest says how a container is restored.
type RestoreRequest struct {
	Bundle  *spec.Bundle
	Mounts  *MountPlan
	Images  *os.File
	Streams []Stream
}

// RestoreOptions maps a container to the options of a CRIU restore.
func RestoreOptions(r *RestoreRequest) *rpc.CriuOpts {
	o := criu.RestoreOptions(r.Images, r.Images, path.Join(restoreDir, "root"))
	for _, m := range r.Mounts.Trees {
		criu.RestoreExternalMount(o, m.Key, path.Join(restoreDir, m.Key))
	}
	for _, m := range r.Mounts.Binds {
		criu.RestoreExternalMount(o, m.Key, m.Source)
	}
	for _, s := range r.Streams {
		criu.InheritFD(o, s.FD, s.Name)
	}
	return o
}

// Stream is a standard stream: what it was at the dump, and the descriptor in
// CRIU ([criu.Session.FD]) that takes its place.
type Stream struct {
	Name string // pipe:[INODE] or file[MOUNT:INODE]
	FD   int32
}

// RestoreMounts makes the container's root file system as a detached mount and
// names it and the trees for a CRIU session. The caller closes the mounts'
// descriptors once the session has started.
func RestoreMounts(b *spec.Bundle, plan *MountPlan, trees []*os.File) ([]criu.Mount, error) {
	if len(trees) != len(plan.Trees) {
		return nil, fmt.Errorf("%d tmpfs trees for %d mounts", len(trees), len(plan.Trees))
	}
	root, err := openRoot(b)
	if err != nil {
		return nil, err
	}
	mounts := []criu.Mount{{Tree: root, Path: path.Join(restoreDir, "root")}}
	for i, tree := range trees {
		// Not a clone: until Linux 6.15 a detached mount can be moved but not
		// cloned. The descriptor sees the tmpfs wherever its mount is.
		fd, err := unix.FcntlInt(tree.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			for _, m := range mounts {
				m.Tree.Close()
			}
			return nil, fmt.Errorf("tmpfs for %s: %w", plan.Trees[i].Target, err)
		}
		mounts = append(mounts, criu.Mount{
			Tree: os.NewFile(uintptr(fd), tree.Name()), Path: path.Join(restoreDir, plan.Trees[i].Key),
		})
	}
	return mounts, nil
}

// openRoot makes the bundle's root file system as a detached mount: an
// overlay, or a clone of the root directory.
func openRoot(b *spec.Bundle) (*os.File, error) {
	if b.Overlay == nil {
		fd, err := unix.OpenTree(unix.AT_FDCWD, b.RootPath(), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return nil, fmt.Errorf("clone root file system %s: %w", b.RootPath(), err)
		}
		return os.NewFile(uintptr(fd), b.RootPath()), nil
	}
	o := b.Overlay
	settings := [][2]string{
		{"lowerdir", strings.Join(o.Lower, ":")}, {"upperdir", o.Upper}, {"workdir", o.Work}, {"source", "overlay"},
	}
	return detachedMount("overlay", settings, 0)
}

// DetachedTmpfs makes a tmpfs that is mounted nowhere: it lives as long as
// somebody holds its descriptor. Options are those of tmpfs(5), as in size=64m,
// and source=, the name that mount tables show.
func DetachedTmpfs(options []string, flags int) (*os.File, error) {
	settings := [][2]string{{"source", "tmpfs"}}
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		if key == "source" {
			settings[0][1] = value
			continue
		}
		settings = append(settings, [2]string{key, value})
	}
	return detachedMount("tmpfs", settings, flags)
}

// detachedMount makes a mount of its own by fsopen, fsconfig and fsmount.
func detachedMount(fstype string, settings [][2]string, flags int) (*os.File, error) {
	ctx, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open file system %s: %w", fstype, err)
	}
	defer unix.Close(ctx)
	for _, s := range settings {
		if err := unix.FsconfigSetString(ctx, s[0], s[1]); err != nil {
			return nil, fmt.Errorf("configure %s: %s=%s: %w", fstype, s[0], s[1], withMessage(ctx, err))
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return nil, fmt.Errorf("make %s: %w", fstype, withMessage(ctx, err))
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, flags)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", fstype, err)
	}
	return os.NewFile(uintptr(fd), fstype), nil
}

// withMessage adds what the kernel has to say about a file system context.
func withMessage(ctx int, err error) error {
	buf := make([]byte, 1024)
	n, rerr := unix.Read(ctx, buf)
	if rerr != nil || n < 2 {
		return err
	}
	return errors.Join(err, errors.New(strings.TrimSpace(string(buf[2:n]))))
}
