package criu

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// runDir is CRIU's run directory. In a session it is a small private tmpfs,
// because CRIU keeps what it found out about the kernel only on tmpfs.
const runDir = "/run"

// Env is the surroundings that a CRIU process is started in. Nothing of it
// changes the calling process or its other threads.
type Env struct {
	// NetNS is the network namespace to run in; nil means the caller's.
	NetNS *os.File
	// JoinFiles are the cgroup files that the process is put into. A v1 `tasks`
	// file is written to by the starting thread itself, which the kernel does
	// without a global lock; for a v2 `cgroup.procs` the process is born in
	// that cgroup.
	JoinFiles []string
	// CgroupNS gives the process a cgroup namespace, of which the cgroup that it
	// joins is the root. CRIU makes none for a tree as long as it does not manage
	// cgroups, so a restored tree has CRIU's.
	CgroupNS bool
	// Cache is a directory, made if need be, that keeps what CRIU found out
	// about the kernel, per boot and binary; empty means that each session probes anew.
	Cache string
	// Mounts are attached in the session's private mount namespace.
	Mounts []Mount
	// PrivateTmp makes /tmp an empty directory of the session's own, so that a
	// CRIU that is killed while it restores leaves nothing in the host's. For a
	// restore that needs nothing below the host's /tmp by its path.
	PrivateTmp bool
	// Work is a directory that is opened in the session's mount namespace, see
	// [Session.Work]; empty for none. A CRIU that mounts something below its work
	// directory, as one that restores cgroups does, can do so only there.
	Work string
	// Files are handed to CRIU as descriptors; [Session.FD] says which.
	Files []*os.File
	// Bare leaves out the mount namespace, which needs CAP_SYS_ADMIN. CRIU then
	// sees the caller's mounts, keeps nothing of what it finds out about the
	// kernel unless /run is a tmpfs, and Mounts are refused.
	Bare bool
	// Dumps says that the session is for a dump. Where this process lacks
	// CAP_SYS_RESOURCE, zap then answers what CRIU asks about limits. A tree that is
	// restored would inherit the filter that this takes.
	Dumps bool
	// Tree is the first process of the tree that is going to be dumped. The
	// kernel lets nobody under a seccomp filter look at another's, so Dumps
	// is left out when a process of this tree has one. 0 says that none has.
	Tree int
	// Log gets what CRIU writes to its standard output and error; nil drops it.
	Log *slog.Logger
}

// Mount is a detached mount and where a session sees it.
type Mount struct {
	Tree *os.File // from fsmount or open_tree
	Path string   // absolute, below /run, made in the session's own /run
}

// process is a started CRIU.
type process struct {
	*os.Process
	run    *os.File // the session's /run, open also when its namespace is gone; nil when bare
	work   *os.File // Env.Work; nil when there is none
	output *os.File // what it wrote to its standard output and error
}

// text returns what CRIU wrote so far, at most 64 KiB.
func (p *process) text() string {
	data, _ := io.ReadAll(io.NewSectionReader(p.output, 0, 64<<10))
	return strings.TrimSpace(string(data))
}

func (p *process) release() {
	if p.run != nil {
		p.run.Close()
	}
	if p.work != nil {
		p.work.Close()
	}
	p.output.Close()
}

// spawn starts binary in e with files as its descriptors from 3 on.
//
// It happens on a thread that is made for it and dies with it: unshare, setns
// and the cgroup change one thread only, and what that thread forks inherits
// them. The thread has no parent-death signal set on the child, which lives on.
func (e *Env) spawn(binary string, args []string, files []*os.File, kdat []byte) (*process, error) {
	if e.Bare && len(e.Mounts) > 0 {
		return nil, errors.New("attach mounts: a bare environment has no mount namespace of its own")
	}
	for _, m := range e.Mounts {
		if !strings.HasPrefix(m.Path, runDir+"/") || filepath.Clean(m.Path) != m.Path {
			return nil, fmt.Errorf("mount %s: not an absolute path below %s", m.Path, runDir)
		}
	}
	if err := closeOnExec(); err != nil {
		return nil, err
	}
	output, err := newOutput()
	if err != nil {
		return nil, err
	}
	run, err := e.newRunDir(kdat)
	if err != nil {
		output.Close()
		return nil, err
	}
	type result struct {
		proc *os.Process
		work *os.File
		err  error
	}
	done := make(chan result, 1)
	go onOwnThread(func() {
		var r result
		if r.err = e.enter(run); r.err == nil && e.Work != "" {
			r.work, r.err = os.Open(e.Work)
		}
		if r.err == nil {
			r.proc, r.err = e.fork(binary, args, files, output)
		}
		done <- r
	})
	r := <-done
	p := &process{r.proc, run, r.work, output}
	if r.err != nil {
		p.release()
		return nil, r.err
	}
	return p, nil
}

// closeOnExec marks what this process inherited from whoever started it, so
// that CRIU does not hold it open too. What Go opens is marked already.
func closeOnExec() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("mark descriptors close-on-exec: %w", err)
	}
	return nil
}

// onOwnThread runs f on a thread that nothing else runs on and that ends with
// it. The process's first thread can't end, and /proc/self shows its
// namespaces, so on that one f is left to another thread.
func onOwnThread(f func()) {
	runtime.LockOSThread() // never unlocked: the runtime ends the thread with the goroutine
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	elsewhere := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(elsewhere)
		f()
	}()
	<-elsewhere
	runtime.UnlockOSThread()
}

// newOutput makes the file that CRIU's standard output and error go to.
func newOutput() (*os.File, error) {
	fd, err := unix.MemfdCreate("criu-output", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make memfd for CRIU's output: %w", err)
	}
	// Append, so that reading it here moves no offset there.
	f := os.NewFile(uintptr(fd), "criu-output")
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFL, unix.O_APPEND); err != nil {
		f.Close()
		return nil, fmt.Errorf("set append mode on CRIU's output: %w", err)
	}
	return f, nil
}

// newRunDir makes a session's /run, a detached tmpfs, with the cached kernel
// facts kdat in it, if there are any. A bare environment has none.
func (e *Env) newRunDir(kdat []byte) (*os.File, error) {
	if e.Bare {
		return nil, nil
	}
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open tmpfs for CRIU's run directory: %w", err)
	}
	defer unix.Close(fs)
	for _, o := range [][2]string{{"source", "zap-criu"}, {"mode", "0755"}, {"size", "16m"}} {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return nil, fmt.Errorf("set %s=%s on CRIU's run directory: %w", o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("create tmpfs for CRIU's run directory: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, fmt.Errorf("mount tmpfs for CRIU's run directory: %w", err)
	}
	run := os.NewFile(uintptr(fd), runDir)
	if kdat != nil {
		if err := writeAt(run, kdatName, kdat); err != nil {
			run.Close()
			return nil, err
		}
	}
	return run, nil
}

func writeAt(dir *os.File, name string, data []byte) error {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create %s: %w", filepath.Join(dir.Name(), name), err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(dir.Name(), name), err)
	}
	return nil
}

// enter moves the calling thread into e: a private mount namespace with run
// as its /run, the network namespace, the cgroups.
func (e *Env) enter(run *os.File) error {
	if run != nil {
		if err := e.enterMounts(run); err != nil {
			return err
		}
	}
	for _, path := range e.JoinFiles {
		if isUnified(path) {
			continue // fork puts the process there
		}
		if err := writeCgroup(path); err != nil {
			return err
		}
	}
	if e.NetNS != nil {
		if err := unix.Setns(int(e.NetNS.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", e.NetNS.Name(), err)
		}
	}
	return nil
}

func (e *Env) enterMounts(run *os.File) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mount namespace for CRIU: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts slaves in CRIU's mount namespace: %w", err)
	}
	if err := coverRun(run); err != nil {
		return err
	}
	if e.PrivateTmp {
		if err := coverTmp(run); err != nil {
			return err
		}
	}
	for _, m := range e.Mounts {
		if err := os.MkdirAll(m.Path, 0o755); err != nil {
			return fmt.Errorf("make mount point in CRIU's mount namespace: %w", err)
		}
		if err := attach(int(m.Tree.Fd()), unix.AT_FDCWD, m.Path); err != nil {
			return fmt.Errorf("attach %s at %s: %w", m.Tree.Name(), m.Path, err)
		}
	}
	return nil
}

func attach(tree, dir int, path string) error {
	return unix.MoveMount(tree, "", dir, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// coverRun mounts run over the thread's /run and shows in it what the host
// has there, mounts below included: container engines keep root file systems
// and bind sources in /run. An entry that vanishes meanwhile is left out.
func coverRun(run *os.File) error {
	entries, err := os.ReadDir(runDir)
	if err != nil {
		return fmt.Errorf("read the host's run directory: %w", err)
	}
	trees := make(map[string]int)
	defer func() {
		for _, fd := range trees {
			unix.Close(fd)
		}
	}()
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), kdatName) {
			continue // CRIU's own, and perhaps another version's
		}
		flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE | unix.AT_SYMLINK_NOFOLLOW)
		fd, err := unix.OpenTree(unix.AT_FDCWD, filepath.Join(runDir, entry.Name()), flags)
		if err != nil {
			continue
		}
		if entry.IsDir() {
			err = unix.Mkdirat(int(run.Fd()), entry.Name(), 0o755)
		} else {
			err = writeAt(run, entry.Name(), nil)
		}
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("make place for %s in CRIU's mount namespace: %w", entry.Name(), err)
		}
		trees[entry.Name()] = fd
	}
	if err := attach(int(run.Fd()), unix.AT_FDCWD, runDir); err != nil {
		return fmt.Errorf("mount CRIU's run directory: %w", err)
	}
	for name, fd := range trees {
		if err := attach(fd, int(run.Fd()), name); err != nil {
			return fmt.Errorf("show %s in CRIU's mount namespace: %w", filepath.Join(runDir, name), err)
		}
	}
	return nil
}

// coverTmp binds an empty directory of run over the thread's /tmp.
func coverTmp(run *os.File) error {
	const name = ".zap-tmp"
	if err := unix.Mkdirat(int(run.Fd()), name, 0o1777); err != nil {
		return fmt.Errorf("make CRIU's /tmp: %w", err)
	}
	if err := unix.Mount(filepath.Join(runDir, name), "/tmp", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount CRIU's /tmp: %w", err)
	}
	return nil
}

// isUnified tells a v2 cgroup.procs, through which only a whole process moves,
// from the v1 files that a single thread writes itself into.
func isUnified(path string) bool { return filepath.Base(path) == "cgroup.procs" }

func writeCgroup(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("0")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("join cgroup: %w", err)
	}
	return nil
}

// fork starts binary from the calling thread. It gets a session of its own, so
// that no key pressed in zap's terminal interrupts it.
func (e *Env) fork(binary string, args []string, files []*os.File, output *os.File) (*os.Process, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	defer null.Close()
	attr := &os.ProcAttr{
		Dir:   "/",
		Env:   environment(),
		Files: append([]*os.File{null, output, output}, files...),
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if e.CgroupNS {
		attr.Sys.Unshareflags = syscall.CLONE_NEWCGROUP
	}
	for _, path := range e.JoinFiles {
		if !isUnified(path) {
			continue
		}
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			return nil, fmt.Errorf("join cgroup: %w", err)
		}
		defer dir.Close()
		attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(dir.Fd())
	}
	var limits *limitsListener
	if e.Dumps && LacksLimits() && !seccomped(e.Tree) {
		if limits, err = installLimits(runtime.GOARCH); err != nil {
			return nil, err
		}
	}
	p, err := os.StartProcess(binary, append([]string{binary}, args...), attr)
	if limits != nil {
		limits.log = e.logger()
		go limits.serve() // until the process and this thread are gone
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", binary, err)
	}
	return p, nil
}

// logger is where to log; nowhere by default.
func (e *Env) logger() *slog.Logger {
	if e.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return e.Log
}
