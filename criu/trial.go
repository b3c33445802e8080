package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// TrialResult says how long the steps of a trial took.
type TrialResult struct {
	Start   time.Duration // from nothing to a CRIU that answers, with its cache warm
	Dump    time.Duration
	Restore time.Duration
}

// Trial dumps a tree of two processes in namespaces of their own, and restores
// it, to see whether that works on this machine. It needs root, puts its files
// below dir (os.TempDir for none), and leaves nothing behind. Cache is as in Env. The
// error is a *TrialError when CRIU is at fault.
func Trial(ctx context.Context, b *Binary, cache, dir string) (result *TrialResult, err error) {
	dir, err = os.MkdirTemp(dir, "zap-trial-")
	if err != nil {
		return nil, fmt.Errorf("try a dump: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tree, err := startTrialTree(dir)
	if err != nil {
		return nil, fmt.Errorf("try a dump: start a tree: %w", err)
	}
	defer tree.kill()
	images, err := tree.images()
	if err != nil {
		return nil, fmt.Errorf("try a dump: %w", err)
	}
	defer images.Close()
	result = new(TrialResult)
	if err := tree.dump(ctx, b, cache, images, result); err != nil {
		return nil, err
	}
	if err := tree.restore(ctx, b, cache, images, result); err != nil {
		return nil, err
	}
	return result, nil
}

// trialTree is a running tree of two processes and the directory it lives in.
type trialTree struct {
	dir  string
	root *os.Process
}

// startTrialTree starts the trial program in a pid and a mount namespace whose
// root is dir/root.
func startTrialTree(dir string) (*trialTree, error) {
	t := &trialTree{dir: dir}
	if err := closeOnExec(); err != nil {
		return nil, err
	}
	if err := os.Mkdir(t.rootfs(), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(t.rootfs(), "trial"), trialProgram(), 0o755); err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	go onOwnThread(func() {
		err := enterRoot(t.rootfs())
		if err == nil {
			t.root, err = startTrialProgram()
		}
		done <- err
	})
	if err := <-done; err != nil {
		return nil, err
	}
	return t, t.waitForChild()
}

// startTrialProgram starts /trial, as the calling thread sees it, as the first
// process of a pid namespace.
func startTrialProgram() (*os.Process, error) {
	return os.StartProcess("/trial", []string{"trial"}, &os.ProcAttr{
		Dir: "/", Sys: &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID},
	})
}

// enterRoot gives the calling thread a mount namespace with dir as its root.
func enterRoot(dir string) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", dir, err)
	}
	if err := unix.Chdir(dir); err != nil {
		return fmt.Errorf("change to %s: %w", dir, err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root to %s: %w", dir, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	return nil
}

func (t *trialTree) rootfs() string { return filepath.Join(t.dir, "root") }

// waitForChild waits until the program has made its second process.
func (t *trialTree) waitForChild() error {
	for end := time.Now().Add(5 * time.Second); len(descendants(t.root.Pid)) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.kill()
			return errors.New("the trial program does not run")
		}
	}
	return nil
}

// kill ends the tree, if it is there, and waits for it.
func (t *trialTree) kill() {
	if t.root != nil {
		_ = t.root.Kill()
		_, _ = t.root.Wait()
		t.root = nil
	}
}

// images makes and opens the directory for images and logs.
func (t *trialTree) images() (*os.File, error) {
	name := filepath.Join(t.dir, "images")
	if err := os.Mkdir(name, 0o700); err != nil {
		return nil, err
	}
	return os.Open(name)
}

func (t *trialTree) dump(ctx context.Context, b *Binary, cache string, images *os.File, r *TrialResult) error {
	begin := time.Now()
	s, err := Start(ctx, b, Env{Cache: cache})
	if err != nil {
		return &TrialError{Step: TrialStart, Err: err}
	}
	defer s.Close()
	started := time.Now()
	options := DumpOptions(t.root.Pid, images, images)
	options.LogLevel = proto.Int32(talkativeLevel) // what it lacks from a kernel, it may tell at no other level
	if _, err := s.Dump(ctx, options, Callbacks{}); err != nil {
		return &TrialError{Step: TrialDump, Err: err}
	}
	r.Start, r.Dump = started.Sub(begin), time.Since(started)
	t.kill()
	return nil
}

func (t *trialTree) restore(ctx context.Context, b *Binary, cache string, images *os.File, r *TrialResult) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, t.rootfs(), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open tree %s: %w", t.rootfs(), err)
	}
	mount := os.NewFile(uintptr(fd), t.rootfs())
	defer mount.Close()
	const root = runDir + "/zap-trial"
	s, err := Start(ctx, b, Env{Cache: cache, PrivateTmp: true, Mounts: []Mount{{Tree: mount, Path: root}}})
	if err != nil {
		return err
	}
	defer s.Close()
	started := time.Now()
	pid, err := s.Restore(ctx, RestoreOptions(images, images, root), Callbacks{})
	if err != nil {
		return &TrialError{Step: TrialRestore, Err: err}
	}
	r.Restore = time.Since(started)
	t.root, err = os.FindProcess(pid)
	return err
}
