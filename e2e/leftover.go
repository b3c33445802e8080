package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ownerName is a file in each directory that is made below workDir: it has the ID of the lab, and its maker keeps it locked until it ends.
const ownerName = ".owner"

// own marks a directory as this process's.
func own(dir, id string) error {
	// It gets its name when it is locked: without a lock it would be nobody's.
	temp := filepath.Join(dir, ownerName+"-new")
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(id); err != nil {
		return errors.Join(err, f.Close())
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0) // stays open, and nobody's finalizer closes it
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("lock %s: %w", temp, err)
	}
	return os.Rename(temp, filepath.Join(dir, ownerName))
}

// disown lets a directory stay when this process has ended.
func disown(dir string) { _ = os.Remove(filepath.Join(dir, ownerName)) }

// sweepOnce removes what labs left behind whose process was killed, see [sweep].
var sweepOnce = sync.OnceValue(sweep)

// sweep removes the directories of processes that are dead, and the network namespaces and mounts of their labs, unless some process is in
// one of the namespaces still or was started with the lab's directory. Whatever has no owner's mark is left alone.
func sweep() error {
	dirs, err := filepath.Glob(filepath.Join(workDir, "zap-e2e-*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, sweepDead(dir))
	}
	return errors.Join(errs...)
}

func sweepDead(dir string) error {
	owner, err := os.Open(filepath.Join(dir, ownerName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer owner.Close()
	if unix.Flock(int(owner.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil // it lives
	}
	id, err := os.ReadFile(owner.Name())
	if errors.Is(err, os.ErrNotExist) {
		return nil // somebody else was faster
	}
	if err != nil {
		return err
	}
	l := &Lab{ID: string(id), Dir: dir}
	var names []string
	if l.ID != "" {
		if names, err = filepath.Glob(filepath.Join(netnsDir, "ze-"+l.ID+"-*")); err != nil {
			return err
		}
	}
	if inUse, err := l.inUse(names); inUse || err != nil {
		return err
	}
	var errs []error
	if l.ID != "" {
		for _, m := range l.mounts() {
			errs = append(errs, unix.Unmount(m, unix.MNT_DETACH))
		}
	}
	for _, n := range names {
		if err := unix.Unmount(n, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", n, err))
		}
		errs = append(errs, os.Remove(n))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// inUse says whether a process is in one of the namespaces, or was started with something of the lab's directory.
func (l *Lab) inUse(names []string) (bool, error) {
	var inodes []uint64
	for _, n := range names {
		if inode, err := NetNS(filepath.Base(n)).Inode(); err == nil {
			inodes = append(inodes, inode)
		}
	}
	all, err := readProcesses()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(all, func(p Process) bool {
		return p.State != 'Z' && (slices.Contains(inodes, p.NetNS) || strings.Contains(p.Args, l.Dir+"/"))
	}), nil
}
