package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// RDT is where a container is in the resctrl file system of Intel's resource director (OCI specification, config-linux.md, IntelRdt).
type RDT struct {
	// Dir is the directory of its class of service; Created says that it was made for the container and goes with it.
	Dir     string `json:"dir"`
	Created bool   `json:"created,omitempty"`
	// Monitor is the directory of its monitoring group; empty without one.
	Monitor string `json:"monitor,omitempty"`
}

// errNoResctrl is what a host without the file system answers.
var errNoResctrl = errors.New("intelRdt is specified in config, but Intel RDT is not enabled: no resctrl file system is mounted; " +
	"mount -t resctrl resctrl /sys/fs/resctrl, where processor and kernel have it")

// findResctrl finds the mounted resctrl file system in the content of a mountinfo file.
func findResctrl(mountinfo []byte) (string, error) {
	for line := range bytes.Lines(mountinfo) {
		before, after, _ := strings.Cut(string(line), " - ")
		if place := strings.Fields(before); len(place) > 4 && strings.HasPrefix(after, "resctrl ") {
			return place[4], nil
		}
	}
	return "", errNoResctrl
}

// makeRDT makes or finds the container's class of service.
func (c *creation) makeRDT() error {
	l := c.bundle.Spec.Linux
	if l == nil || l.IntelRdt == nil {
		return nil
	}
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	var root string
	if err == nil {
		root, err = findResctrl(mountinfo)
	}
	if err == nil {
		c.rdt, err = newRDT(root, c.id, l.IntelRdt)
	}
	if err != nil {
		return fmt.Errorf("set up resource director: %w (config.json: linux.intelRdt)", err)
	}
	return nil
}

// newRDT makes what a specification asks for below the mount point root. After an error nothing of it stays.
func newRDT(root, id string, s *specs.LinuxIntelRdt) (_ *RDT, err error) {
	name := s.ClosID
	if name == "" {
		name = id
	}
	r := &RDT{Dir: filepath.Join(root, name)}
	made := false
	defer func() {
		if err != nil {
			r.Created = made
			err = errors.Join(err, r.remove())
		}
	}()
	lines := schemata(s)
	_, err = os.Stat(r.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && (s.ClosID == "" || len(lines) > 0):
		if err := os.Mkdir(r.Dir, 0o755); err != nil {
			return nil, err
		}
		made, r.Created = true, s.ClosID == ""
	case err != nil:
		return nil, err // a class without schemata has to be there
	default:
		if err := r.compare(s); err != nil {
			return nil, err
		}
	}
	if len(lines) > 0 {
		if err := writeLine(filepath.Join(r.Dir, "schemata"), strings.Join(lines, "\n")); err != nil {
			return nil, err
		}
	}
	if s.EnableMonitoring {
		monitor := filepath.Join(r.Dir, "mon_groups", id)
		if err := os.Mkdir(monitor, 0o755); err != nil {
			return nil, err
		}
		r.Monitor = monitor
	}
	return r, nil
}

// schemata lists the lines to write, in their order.
func schemata(s *specs.LinuxIntelRdt) (lines []string) {
	for _, line := range append([]string{s.L3CacheSchema, s.MemBwSchema}, s.Schemata...) {
		if line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

// compare wants a class that is there already to be what the specification says.
func (r *RDT) compare(s *specs.LinuxIntelRdt) error {
	if s.L3CacheSchema == "" && s.MemBwSchema == "" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(r.Dir, "schemata"))
	if err != nil {
		return err
	}
	have := map[string]string{}
	for line := range strings.Lines(string(data)) {
		addSchema(have, line)
	}
	want := map[string]string{}
	addSchema(want, s.L3CacheSchema)
	addSchema(want, s.MemBwSchema)
	for what, value := range want {
		if have[what] != value {
			return fmt.Errorf("class %s has %q for %s, not %q", r.Dir, have[what], what, value)
		}
	}
	return nil
}

// addSchema takes a line such as L3:0=f;1=ff apart: "L3:0" is "f".
func addSchema(to map[string]string, line string) {
	resource, values, _ := strings.Cut(strings.TrimSpace(line), ":")
	for pair := range strings.SplitSeq(values, ";") {
		if id, value, ok := strings.Cut(pair, "="); ok {
			to[resource+":"+strings.TrimSpace(id)] = strings.ToLower(strings.TrimLeft(strings.TrimSpace(value), "0"))
		}
	}
}

// add makes a process a member: of the class first, as the kernel wants it, then of the monitoring group.
func (r *RDT) add(pid int) error {
	if r == nil {
		return nil
	}
	for _, dir := range []string{r.Dir, r.Monitor} {
		if dir == "" {
			continue
		}
		if err := writeLine(filepath.Join(dir, "tasks"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("join resource director: %w (config.json: linux.intelRdt)", err)
		}
	}
	return nil
}

// remove takes away what was made for the container.
func (r *RDT) remove() error {
	if r == nil {
		return nil
	}
	var errs []error
	dirs := []string{r.Monitor}
	if r.Created {
		dirs = append(dirs, r.Dir)
	}
	for _, dir := range dirs {
		if err := os.Remove(dir); dir != "" && err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// writeLine writes a line into a file of the kernel's.
func writeLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	return errors.Join(err, f.Close())
}
