package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/boot"
	"github.com/zap-migrate/zap/runtime/cgroup"
)

// place is where in the container's cgroup the process goes. When that is gone, because the container's first process has moved to another
// group of cgroup v2 and removed it, the process follows it.
func (e *execution) place() (cgroup.Place, error) {
	if e.container.state.CgroupPath == "" && len(e.options.Cgroups) == 0 {
		return cgroup.Place{}, nil // its maker was not allowed to make a cgroup
	}
	cg, err := e.container.Cgroup()
	if errors.Is(err, fs.ErrNotExist) && len(e.options.Cgroups) == 0 {
		if dir, err := cgroup.UnifiedDirOf(e.container.state.Pid); err == nil {
			return cgroup.Place{Unified: dir}, nil
		}
	}
	if err != nil {
		return cgroup.Place{}, err
	}
	return cg.Place(e.options.Cgroups)
}

// openCgroup opens the files by which the child joins the cgroup, and unless it joins late also the directory that it is born into.
func (e *execution) openCgroup(bind *boot.Bind, place cgroup.Place, tasks []string, late bool) error {
	for _, file := range tasks {
		f, err := os.OpenFile(file, os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("adding pid to cgroups: %w", err)
		}
		e.files = append(e.files, f)
		bind.Slots[file] = int(f.Fd())
	}
	if place.Unified != "" && !late {
		f, err := os.Open(place.Unified)
		if err != nil {
			return fmt.Errorf("adding pid to cgroups: %w", err)
		}
		e.files = append(e.files, f)
		bind.Cgroup = int(f.Fd())
	}
	return nil
}

// mayFollowInit says whether an error of the start is that nobody can be born into the container's group of cgroup v2. A container that
// sees its cgroups can have handed controllers down from it, and then it may have no processes of its own.
func (e *execution) mayFollowInit(err error) bool {
	return len(e.options.Cgroups) == 0 && (errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV))
}

// startWithInit starts the process in the group of the container's first one.
func (e *execution) startWithInit(program *boot.Program, bind boot.Bind) (*boot.Child, error) {
	dir, err := cgroup.UnifiedDirOf(e.container.state.Pid)
	if err != nil {
		return nil, fmt.Errorf("join cgroup of the first process: %w", err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("join cgroup of the first process: %w", err)
	}
	defer f.Close()
	bind.Cgroup = int(f.Fd())
	return program.Start(bind)
}
