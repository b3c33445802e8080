package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Exposed says whether a process in the container may be able to look at what is started there before its program runs: whether it can have
// CAP_SYS_PTRACE in the runtime's own user namespace. Its maker may have given it, or an exec; or the container is in a pid
// namespace with others of which nobody here knows. A container that shares the host's processes is not meant: to that all of them are open.
//
// What enters such a container is born into its pid namespace only when it has left the host's file system, and Shelter keeps the
// runtime's own file from being written to. What remains in reach is a process with the runtime's capabilities in the container's namespaces.
func (c *Container) Exposed() bool {
	s := c.state
	linux := s.Bundle.Spec.Linux
	if linux == nil {
		return false
	}
	pids, shared := false, false
	for _, ns := range linux.Namespaces {
		switch ns.Type {
		case specs.UserNamespace:
			return false
		case specs.PIDNamespace:
			pids, shared = true, ns.Path != ""
		}
	}
	return pids && (shared || s.Tracer || mayTrace(s.Bundle.Spec.Process))
}

// mayTrace says whether a process can have CAP_SYS_PTRACE, now or after an execve.
func mayTrace(p *specs.Process) bool {
	if p == nil || p.Capabilities == nil {
		return false
	}
	c := p.Capabilities
	for _, set := range [][]string{c.Bounding, c.Permitted, c.Effective, c.Inheritable, c.Ambient} {
		if slices.Contains(set, "CAP_SYS_PTRACE") {
			return true
		}
	}
	return false
}

// noteTracer writes down that an exec gives its process what the container's own has not.
func (c *Container) noteTracer(p *specs.Process) error {
	if c.state.Tracer || !mayTrace(p) || mayTrace(c.state.Bundle.Spec.Process) {
		return nil
	}
	return c.Save(func(s *State) { s.Tracer = true })
}

// Shelter makes sure that nobody who gets hold of this process's executable by way of /proc can write to the file: it executes the same
// program again, with the same arguments, from a read-only mount that no path leads to, or where that can't be made from a sealed
// copy in memory. It returns at once in a process that was started so, or whose file is on a read-only mount anyway.
func Shelter() error {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("shelter executable: %w", err)
	}
	defer self.Close()
	if sheltered(int(self.Fd())) {
		_ = os.WriteFile("/proc/self/comm", []byte("zap"), 0) // it is called like the descriptor
		return nil
	}
	fd, err := readOnlyMount()
	if err != nil {
		var cerr error
		if fd, cerr = sealedCopy(self); cerr != nil {
			return fmt.Errorf("shelter executable: %w", errors.Join(err, cerr))
		}
	}
	defer unix.Close(fd)
	if err := syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), os.Args, os.Environ()); err != nil {
		return fmt.Errorf("execute sheltered executable: %w", err)
	}
	return nil
}

// seals are what a copy in memory needs so that nobody can change it.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// sheltered says whether nobody can write to a file through this descriptor's mount.
func sheltered(fd int) bool {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err == nil && fs.Flags&unix.ST_RDONLY != 0 {
		return true
	}
	have, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	return err == nil && have&seals == seals
}

// readOnlyMount opens this program's file on a mount of its own.
func readOnlyMount() (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/proc/self/exe", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("clone mount: %w", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("make mount read-only: %w", err)
	}
	if !sheltered(fd) {
		unix.Close(fd)
		return -1, errors.New("make mount read-only: it is not")
	}
	return fd, nil
}

// sealedCopy copies this program's file to memory.
func sealedCopy(self *os.File) (int, error) {
	const executable = 0x10 // MFD_EXEC, Linux 6.3
	fd, err := unix.MemfdCreate("zap", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|executable)
	if err == unix.EINVAL {
		fd, err = unix.MemfdCreate("zap", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, fmt.Errorf("make memory file: %w", err)
	}
	fd2, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("make memory file: %w", err)
	}
	file := os.NewFile(uintptr(fd2), "memory file")
	_, err = io.Copy(file, self)
	file.Close()
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("copy executable to memory: %w", err)
	}
	return fd, nil
}
