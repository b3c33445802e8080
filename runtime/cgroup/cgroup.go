package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Top is the first component of the paths that are zap's own. Delete removes the empty parents of a group up to and
// including it; parents of other paths belong to whoever named them and stay.
const Top = "zap"

// MaxWait bounds every wait of this package whose context has no earlier deadline.
const MaxWait = 10 * time.Second

// Cgroup is one group: a directory of the same path in each hierarchy of the host. Its methods may be called from several
// goroutines and processes at once.
type Cgroup struct {
	path  string // from the hierarchies' mount points on, absolute
	trees []*hierarchy
}

// Create makes the group path ("/zap/web") in every hierarchy, its parents included, and applies res (nil: no limits). A
// group that is there already is taken when no process is in it and it is not frozen, and refused otherwise. When Create
// fails, nothing of what it made stays. Errors about limits name the place in config.json.
func Create(path string, res *specs.LinuxResources) (*Cgroup, error) {
	trees, err := host()
	if err != nil {
		return nil, err
	}
	return createIn(trees, path, res)
}

// createIn is Create on some of the host's hierarchies.
func createIn(trees []*hierarchy, path string, res *specs.LinuxResources) (*Cgroup, error) {
	path, err := cleanPath(path)
	if err != nil {
		return nil, err
	}
	c := &Cgroup{path: path, trees: trees}
	made, err := c.makeAll()
	if err == nil {
		err = c.apply(res)
	}
	if err != nil {
		for _, dir := range made {
			_ = unix.Rmdir(dir)
		}
		c.removeParents()
		return nil, fmt.Errorf("create cgroup %s: %w", path, err)
	}
	return c, nil
}

// Load returns the group path as it exists. The error wraps fs.ErrNotExist when no hierarchy has it.
func Load(path string) (*Cgroup, error) {
	all, err := host()
	if err != nil {
		return nil, err
	}
	return loadIn(all, path)
}

// loadIn is Load on some of the host's hierarchies.
func loadIn(all []*hierarchy, path string) (*Cgroup, error) {
	path, err := cleanPath(path)
	if err != nil {
		return nil, err
	}
	c := &Cgroup{path: path}
	for _, h := range all {
		var st unix.Stat_t
		switch err := unix.Lstat(filepath.Join(h.mount, path), &st); {
		case err == nil:
			c.trees = append(c.trees, h)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("load cgroup %s: stat %s: %w", path, h.mount+path, err)
		}
	}
	if len(c.trees) == 0 {
		return nil, fmt.Errorf("load cgroup %s: %w", path, fs.ErrNotExist)
	}
	return c, nil
}

// Path returns the group's path from the hierarchies' mount points on.
func (c *Cgroup) Path() string { return c.path }

// Paths returns the group's directory in each hierarchy, by the name of the controller ("memory"), of a v1 hierarchy
// without one ("name=systemd"), or "" for v2. Controllers that share a hierarchy share the directory.
func (c *Cgroup) Paths() map[string]string {
	out := make(map[string]string, len(c.trees)+1)
	for _, h := range c.trees {
		for _, n := range h.names {
			out[n] = c.dir(h)
		}
	}
	return out
}

// JoinFiles returns the files that a single-threaded process writes "0" into to enter the group in every hierarchy: of v1
// each tasks file, then of v2 cgroup.procs. Every write to a tasks file takes some 5 us; the one to cgroup.procs takes the
// kernel's global thread group lock and with it up to 10 ms. A process that is made with CLONE_INTO_CGROUP, see
// UnifiedDir, needs only TaskFiles.
func (c *Cgroup) JoinFiles() []string {
	files := c.TaskFiles()
	if dir := c.UnifiedDir(); dir != "" {
		files = append(files, dir+"/cgroup.procs")
	}
	return files
}

// TaskFiles returns the tasks files of the group in all v1 hierarchies; there are none on a v2 host.
func (c *Cgroup) TaskFiles() []string {
	files := make([]string, 0, len(c.trees)+1)
	for _, h := range c.trees {
		if !h.unified {
			files = append(files, c.dir(h)+"/tasks")
		}
	}
	return files
}

// UnifiedDir returns the group's directory in the v2 tree, for CLONE_INTO_CGROUP, or "" on a v1 host. It works on hybrid
// hosts too.
func (c *Cgroup) UnifiedDir() string {
	if h := c.tree(""); h != nil {
		return c.dir(h)
	}
	return ""
}

// Add moves process pid, with all its threads, into the group in every hierarchy. A process that enters by itself through
// JoinFiles is much faster.
func (c *Cgroup) Add(pid int) error {
	for _, h := range c.trees {
		if err := writeFile(c.dir(h)+"/cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("add process %d to cgroup %s: %w", pid, c.path, err)
		}
	}
	return nil
}

// MemoryLimit returns the most memory the group may use, in bytes, or -1 when it has no limit of its own.
func (c *Cgroup) MemoryLimit() (int64, error) {
	file := "memory.limit_in_bytes"
	h := c.tree("memory")
	if h == nil {
		file, h = "memory.max", c.tree("")
	}
	if h == nil { // as of v1 with newer kernels, whose v1 has no such controller
		return -1, nil
	}
	s, err := readFile(c.dir(h) + "/" + file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && h.unified: // the memory controller is not enabled for it
		return -1, nil
	case err != nil:
		return 0, fmt.Errorf("read memory limit of cgroup %s: %w", c.path, err)
	case s == "max":
		return -1, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read memory limit of cgroup %s: %w", c.path, err)
	}
	if n >= 1<<62 { // v1 says "none" as the largest number of whole pages
		return -1, nil
	}
	return n, nil
}

// dir returns the group's directory in a hierarchy.
func (c *Cgroup) dir(h *hierarchy) string { return h.mount + c.path }

// tree returns the hierarchy that carries a controller ("" is v2), or nil.
func (c *Cgroup) tree(name string) *hierarchy {
	for _, h := range c.trees {
		if h.has(name) {
			return h
		}
	}
	return nil
}

// makeAll makes the group's directories, fills in what cpuset needs, and returns those that were not there before.
// Somebody else's Delete may remove an empty parent between two steps: that is tried again.
func (c *Cgroup) makeAll() (made []string, err error) {
	for _, h := range c.trees {
		var fresh bool
		for try := 0; ; try++ {
			fresh, err = c.makeIn(h)
			if !(errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)) || try == 100 {
				break
			}
		}
		if err != nil {
			return made, err
		}
		if fresh {
			made = append(made, c.dir(h))
			continue
		}
		if err := c.takeOver(h); err != nil {
			return made, err
		}
	}
	return made, nil
}

// makeIn makes the group and its missing parents in one hierarchy and says whether the group is new.
func (c *Cgroup) makeIn(h *hierarchy) (fresh bool, err error) {
	dir := c.dir(h)
	err = unix.Mkdir(dir, 0o755)
	if err == unix.ENOENT {
		for at := len(h.mount) + 1; ; {
			i := strings.IndexByte(dir[at:], '/')
			if i < 0 {
				break
			}
			at += i + 1
			if err := unix.Mkdir(dir[:at-1], 0o755); err != nil && err != unix.EEXIST {
				return false, fmt.Errorf("mkdir %s: %w", dir[:at-1], err)
			}
		}
		err = unix.Mkdir(dir, 0o755)
	}
	if err != nil && err != unix.EEXIST {
		return false, fmt.Errorf("mkdir %s: %w", dir, err)
	}
	fresh = err == nil
	if h.has("cpuset") {
		if err := inheritCpuset(h.mount, dir); err != nil {
			if fresh {
				_ = unix.Rmdir(dir)
			}
			return false, err
		}
	}
	return fresh, nil
}

// takeOver makes sure that a group which existed before is empty and lets processes run. One that somebody has frozen is refused: nobody
// could run in it, and whoever froze it may have a reason. Only what a crash left of zap's own groups is thawed.
func (c *Cgroup) takeOver(h *hierarchy) error {
	pids, err := readPids(c.dir(h))
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // a threaded group
		return err
	}
	if len(pids) > 0 {
		return fmt.Errorf("container's cgroup is not empty: %d process(es) found in %s", len(pids), c.dir(h))
	}
	file, frozen, thaw := "/cgroup.freeze", "1", "0"
	switch {
	case h.has("freezer"):
		file, frozen, thaw = "/freezer.state", "FROZEN", "THAWED"
	case !h.unified:
		return nil
	}
	state, err := readFile(c.dir(h) + file)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && state != frozen && state != "FREEZING":
		return nil
	case err != nil:
		return err
	case !c.underTop():
		return fmt.Errorf("container's cgroup unexpectedly frozen: %s", c.dir(h)+file)
	}
	return writeFile(c.dir(h)+file, thaw)
}

// inheritCpuset gives dir and its parents below mount the CPUs and memory nodes of their parents where they have none, as
// nobody can enter an empty one. Read and write one file per list and level when all are new.
func inheritCpuset(mount, dir string) error {
	for _, file := range []string{"/cpuset.cpus", "/cpuset.mems"} {
		if _, err := inheritFile(mount, dir, file); err != nil {
			return err
		}
	}
	return nil
}

func inheritFile(mount, dir, file string) (string, error) {
	value, err := readFile(dir + file)
	if err != nil || value != "" || dir == mount {
		return value, err
	}
	if value, err = inheritFile(mount, filepath.Dir(dir), file); err != nil {
		return "", err
	}
	return value, writeFile(dir+file, value)
}

// bounded returns a context that ends after MaxWait at the latest.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, MaxWait)
}

// underTop says whether the group's path is one of zap's own.
func (c *Cgroup) underTop() bool {
	return slices.Contains(strings.SplitN(c.path, "/", 3)[1:2], Top)
}
