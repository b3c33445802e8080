package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/boot"
)

// serveMount does for the child what its program asks its parent for while it mounts.
func (c *creation) serveMount(event *boot.Event) error {
	m := &c.bundle.Spec.Mounts[event.Place]
	wrap := func(err error) error {
		if err == nil {
			return nil
		}
		name := m.Source
		if m.Type != "" && !isBind(*m) {
			name = m.Type
		}
		err = fmt.Errorf("mount %s on %s: %w (config.json: mounts[%d])", name, m.Destination, err, event.Place)
		return &StageError{Stage: StageMount, Mount: *m, Err: err}
	}
	switch event.Mark {
	case boot.MarkTarget:
		var target *os.File
		err := c.asRoot(func() (err error) {
			target, err = openTarget(event.File, m.Destination, c.isFile(m))
			return err
		})
		if err != nil {
			return wrap(err)
		}
		defer target.Close()
		return c.child.Give(target)
	case boot.MarkSource:
		source, err := c.openSource(m)
		if err != nil {
			return wrap(err)
		}
		defer source.Close()
		return c.child.Give(source)
	}
	if err := wrap(c.asRoot(func() error { return copyUp(c.ctx, event.File, event.Second) })); err != nil {
		return err
	}
	return c.child.Continue()
}

// isFile says whether a mount is of a file and needs a file to be mounted on.
func (c *creation) isFile(m *specs.Mount) bool {
	if !isBind(*m) {
		return false
	}
	info, err := os.Stat(sourcePath(c.bundle.Dir, m))
	return err == nil && !info.IsDir()
}

// sourcePath is the absolute path of a bind mount's source.
func sourcePath(bundle string, m *specs.Mount) string {
	if filepath.IsAbs(m.Source) {
		return m.Source
	}
	return filepath.Join(bundle, m.Source)
}

// onThread calls f on a thread of its own, which ends with it: what f changes of the thread stays there.
func onThread(f func() error) error {
	result := make(chan error, 1)
	var begin func()
	begin = func() {
		goruntime.LockOSThread() // and never unlocks it
		if unix.Gettid() == unix.Getpid() {
			// This one can't end. Another goroutine gets another thread as long as this one is busy.
			done := make(chan struct{})
			go func() { defer close(done); begin() }()
			<-done
			goruntime.UnlockOSThread()
			return
		}
		result <- f()
	}
	go begin()
	return <-result
}

// asRoot calls f with the ids that files of the container's root have on the host, and all rights nevertheless.
func (c *creation) asRoot(f func() error) error {
	uid, gid := 0, 0
	if c.hasUsers() {
		l := c.bundle.Spec.Linux
		uid, gid = hostID(l.UIDMappings), hostID(l.GIDMappings)
	}
	if uid <= 0 && gid <= 0 || os.Geteuid() != 0 {
		return f()
	}
	return onThread(func() error {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETFSGID, uintptr(gid), 0, 0); errno != 0 {
			return errno
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETFSUID, uintptr(uid), 0, 0); errno != 0 {
			return errno
		}
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&header, (*unix.CapUserData)(unsafe.Pointer(&data))); err != nil {
			return fmt.Errorf("capget: %w", err)
		}
		for i := range data {
			data[i].Effective = data[i].Permitted // which the change of ids took away
		}
		if err := unix.Capset(&header, (*unix.CapUserData)(unsafe.Pointer(&data))); err != nil {
			return fmt.Errorf("capset: %w", err)
		}
		return f()
	})
}

// hasUsers says whether the container has a user namespace.
func (c *creation) hasUsers() bool {
	return slices.ContainsFunc(c.namespaces(), func(ns specs.LinuxNamespace) bool { return ns.Type == specs.UserNamespace })
}

// hostID is the id outside of the namespace's root, -1 when it has none.
func hostID(list []specs.LinuxIDMapping) int {
	for _, m := range list {
		if m.ContainerID == 0 {
			return int(m.HostID)
		}
	}
	return -1
}

// openSource takes a bind mount's source as a detached mount, in the mount namespace of the child but with this process's rights, and maps
// its ids.
func (c *creation) openSource(m *specs.Mount) (*os.File, error) {
	options := m.Options
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if slices.Contains(options, "rbind") {
		flags |= unix.AT_RECURSIVE
	}
	pidfd, err := unix.PidfdOpen(c.child.Pid, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", c.child.Pid, err)
	}
	defer unix.Close(pidfd)
	fd := -1
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := unix.Setns(pidfd, unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("setns: %w", err)
		}
		var err error
		if fd, err = unix.OpenTree(unix.AT_FDCWD, sourcePath(c.bundle.Dir, m), flags); err != nil {
			return fmt.Errorf("open_tree: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	source := os.NewFile(uintptr(fd), m.Source)
	if slices.Contains(options, "idmap") || slices.Contains(options, "ridmap") || len(m.UIDMappings) > 0 {
		if err := c.mapSource(source, m); err != nil {
			return nil, errors.Join(err, source.Close())
		}
	}
	return source, nil
}

// mapSource maps the ids of a detached mount: by its own maps, or by those of the container.
func (c *creation) mapSource(source *os.File, m *specs.Mount) error {
	l := c.bundle.Spec.Linux
	uids, gids := m.UIDMappings, m.GIDMappings
	if len(uids) == 0 {
		uids, gids = l.UIDMappings, l.GIDMappings
	}
	var users *os.File
	var err error
	if len(uids) == 0 { // the container joined a user namespace
		users, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", c.child.Pid))
	} else {
		users, err = boot.NewUserNamespace(uids, gids)
	}
	if err != nil {
		return err
	}
	defer users.Close()
	flags := uint(unix.AT_EMPTY_PATH)
	if slices.Contains(m.Options, "ridmap") {
		flags |= unix.AT_RECURSIVE
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Fd())}
	if err := unix.MountSetattr(int(source.Fd()), "", flags, attr); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return nil
}

// openIDMaps makes the user namespaces that the program's id-mapped mounts want.
func (c *creation) openIDMaps(b *boot.Bind, p *boot.Program) error {
	for _, m := range p.IDMaps() {
		users, err := boot.NewUserNamespace(m.UIDs, m.GIDs)
		if err != nil {
			return fmt.Errorf("map ids of mount: %w (config.json: mounts[%d].uidMappings)", err, m.Mount)
		}
		c.closers = append(c.closers, func() { users.Close() })
		b.Slots[m.Slot] = int(users.Fd())
	}
	return nil
}
