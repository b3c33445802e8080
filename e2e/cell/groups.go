package cell

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	groupPrefix    = "zap-cell-"
	groupsVariable = "ZAP_CELL_GROUPS"
	cgroupRoot     = "/sys/fs/cgroup"
)

// groups are the directories of a cell's cgroups, one in each hierarchy, on the host.
type groups []string

// hierarchy is a cgroup file system that is mounted.
type hierarchy struct {
	path, kind, options string
}

// hierarchies are the cgroup file systems of this mount namespace.
func hierarchies() ([]hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []hierarchy
	for s := bufio.NewScanner(f); s.Scan(); {
		before, after, _ := strings.Cut(s.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if len(left) < 5 || len(right) < 3 || (right[0] != "cgroup" && right[0] != "cgroup2") {
			continue
		}
		h := hierarchy{path: left[4], kind: right[0]}
		if h.path != cgroupRoot && filepath.Dir(h.path) != cgroupRoot {
			continue // somebody's own mount
		}
		options := strings.Split(right[2], ",")
		options = slices.DeleteFunc(options, func(o string) bool { return o == "rw" || o == "ro" || strings.HasPrefix(o, "release_agent=") })
		if slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "name=") }) {
			options = append(options, "none")
		}
		if h.kind == "cgroup" {
			h.options = strings.Join(options, ",")
		}
		all = append(all, h)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no cgroup file system below %s", cgroupRoot)
	}
	return all, nil
}

// makeGroups makes a cgroup in every hierarchy. What an earlier cell that was killed has left goes.
func makeGroups() (groups, error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var g groups
	for _, h := range all {
		old, _ := filepath.Glob(filepath.Join(h.path, groupPrefix+"*"))
		for _, dir := range old {
			pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(dir), groupPrefix))
			if err == nil && unix.Kill(pid, 0) == unix.ESRCH {
				removeTree(dir)
			}
		}
		dir := filepath.Join(h.path, groupPrefix+strconv.Itoa(os.Getpid()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			g.remove()
			return nil, err
		}
		g = append(g, dir)
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} { // v1 wants them before it lets a process in
			if now, err := os.ReadFile(filepath.Join(h.path, name)); err == nil && h.kind == "cgroup" {
				_ = os.WriteFile(filepath.Join(dir, name), now, 0)
			}
		}
	}
	return g, nil
}

func (g groups) environment() string { return groupsVariable + "=" + strings.Join(g, ":") }

// remove removes the groups once their last processes have left.
func (g groups) remove() {
	for _, dir := range g {
		for deadline := time.Now().Add(10 * time.Second); removeTree(dir) != nil && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond)
		}
		if err := removeTree(dir); err != nil {
			fmt.Fprintf(os.Stderr, "cell: %v\n", err)
		}
	}
}

// removeTree removes a cgroup and those in it.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}

// joinGroups moves this process into the cell's groups, and returns their directories.
func joinGroups() ([]string, error) {
	dirs := strings.Split(os.Getenv(groupsVariable), ":")
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return nil, err
		}
	}
	return dirs, os.Unsetenv(groupsVariable)
}

// remountGroups mounts the hierarchies as this cgroup namespace sees them: the cell's groups are their roots. Where they lie on a tmpfs,
// that is a new one too. In version 2 no processes may be in a group that gives controllers on, so this one goes into a group of its own.
func (c Cell) remountGroups() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	links, err := symbolicLinks(cgroupRoot)
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := unix.Unmount(h.path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", h.path, err)
		}
	}
	if all[0].path != cgroupRoot {
		if err := mount("cgroup", cgroupRoot, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755"); err != nil {
			return err
		}
		if c.Legacy {
			all = slices.DeleteFunc(all, func(h hierarchy) bool { return h.kind == "cgroup2" })
		}
	}
	for _, h := range all {
		if err := mountHierarchy(h); err != nil {
			return err
		}
		if h.kind == "cgroup2" {
			if err := delegate(h.path); err != nil {
				return err
			}
		}
	}
	for _, name := range c.Controllers {
		if _, err := os.Stat(filepath.Join(store, name)); err != nil {
			continue // not borrowed
		}
		if err := mountHierarchy(hierarchy{filepath.Join(cgroupRoot, name), "cgroup", name}); err != nil {
			return err
		}
	}
	if len(c.Controllers) > 0 {
		if err := unix.Unmount(store, unix.MNT_DETACH); err != nil { // what borrow has mounted, and keeps
			return fmt.Errorf("unmount %s: %w", store, err)
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(cgroupRoot, name)); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

func mountHierarchy(h hierarchy) error {
	if err := os.MkdirAll(h.path, 0o755); err != nil {
		return err
	}
	err := mount("cgroup", h.path, h.kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, h.options)
	if err != nil && h.path != cgroupRoot {
		_ = os.Remove(h.path)
	}
	return err
}

// symbolicLinks are those in a directory: /sys/fs/cgroup has some for controllers that share a hierarchy.
func symbolicLinks(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	links := map[string]string{}
	for _, e := range entries {
		if e.Type() == os.ModeSymlink {
			if links[e.Name()], err = os.Readlink(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return links, nil
}

// borrow makes the hierarchies of Controllers, which can't be done from a cgroup namespace, and keeps them as long as this process lives
// by mounts that only it and the cell have. It goes without those that version 2 or another hierarchy has.
func (c Cell) borrow() error {
	if len(c.Controllers) == 0 {
		return nil
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := mount("cell", store, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, name := range c.Controllers {
		_ = mountHierarchy(hierarchy{filepath.Join(store, name), "cgroup", name})
	}
	return nil
}

// giveBack removes what tests have left in the hierarchies of Controllers: as long as they have a group they stay, also when no mount
// leads to them.
func (c Cell) giveBack() {
	for _, name := range c.Controllers {
		groups, _ := filepath.Glob(filepath.Join(cgroupRoot, name, "*/"))
		for _, dir := range groups {
			_ = removeTree(dir)
		}
	}
}

// delegate moves what runs in a cgroup into one below it and gives all controllers on.
func delegate(root string) error {
	leaf := filepath.Join(root, "cell")
	if err := os.Mkdir(leaf, 0o755); err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		procs, err := os.ReadFile(filepath.Join(root, "cgroup.procs"))
		if err != nil {
			return err
		}
		if len(procs) == 0 {
			break
		}
		for _, pid := range strings.Fields(string(procs)) {
			if pid == "0" { // the process that has started this one, which goes by itself
				continue
			}
			if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(pid), 0); err != nil {
				return err
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("empty %s: processes %q stay", root, procs)
		}
	}
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(controllers)) {
		if err := os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
			return err
		}
	}
	return nil
}

// leave moves this process out of the roots of the cell's cgroup namespace, for delegate.
func leave(dirs []string) error {
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.controllers")); err != nil {
			continue // version 1
		}
		leaf := filepath.Join(dir, "outside")
		if err := os.Mkdir(leaf, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
	}
	return nil
}
