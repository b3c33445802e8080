package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Set applies res to a group that has processes, as Create does to a new one: what res does not mention stays as it is. A
// memory limit below what the group uses and can't give up is refused (v1) or kills processes (v2): see MemoryUsage.
func (c *Cgroup) Set(res *specs.LinuxResources) error { return c.SetFrom(res, configDocument) }

// SetFrom is Set for limits that are not from config.json: document is what errors call their place.
func (c *Cgroup) SetFrom(res *specs.LinuxResources, document string) error {
	err := c.apply(res)
	var f *FieldError
	if errors.As(err, &f) {
		f.Document = document
	}
	if err != nil {
		return fmt.Errorf("set limits of cgroup %s: %w", c.path, err)
	}
	return nil
}

// configDocument is where a container's limits are from unless they were updated.
const configDocument = "config.json: linux.resources"

// apply writes limits into the group.
func (c *Cgroup) apply(res *specs.LinuxResources) error {
	if res == nil {
		res = &specs.LinuxResources{}
	}
	tasks, needed, err := c.plan(res)
	if err != nil {
		return err
	}
	extra, err := c.unifiedControllers(res.Unified)
	if err != nil {
		return err
	}
	if needed = append(needed, extra...); c.unifiedOnly() || len(needed) > 0 {
		if err := c.enableControllers(needed); err != nil {
			return err
		}
	}
	if err := c.checkMemory(res.Memory); err != nil {
		return err
	}
	for _, t := range tasks {
		for _, k := range t.knots {
			if err := k.do(t.dir); err != nil {
				return err
			}
		}
	}
	if err := c.applyDevices(res.Devices); err != nil {
		return err
	}
	return c.applyUnified(res.Unified)
}

// applyDevices has the group's devices controlled, by v1's lists or by a program on v2.
func (c *Cgroup) applyDevices(rules []specs.LinuxDeviceCgroup) error {
	switch {
	case len(rules) == 0:
		return nil
	case c.unifiedOnly():
		return c.applyDeviceFilter(rules)
	}
	return c.applyDeviceLists(rules)
}

// unifiedOnly says whether v2 is the only hierarchy of the group.
func (c *Cgroup) unifiedOnly() bool {
	return len(c.trees) == 1 && c.trees[0].unified
}

// unifiedControllers checks the keys of linux.resources.unified, which are names of files in v2, and returns their controllers.
func (c *Cgroup) unifiedControllers(values map[string]string) ([]string, error) {
	var out []string
	for _, key := range sortedKeys(values) {
		controller, _, ok := strings.Cut(key, ".")
		switch {
		case !ok || controller == "" || strings.Contains(key, "/"):
			return nil, fieldError(key, "unified", errors.New("not the name of a file of cgroup v2, CONTROLLER.PARAMETER"))
		case controller == "cgroup":
			if c.tree("") == nil {
				return nil, fieldError(key, "unified", errNoUnified)
			}
		case !c.offers(controller):
			return nil, fieldError(key, "unified", errNoUnified)
		default:
			out = append(out, controller)
		}
	}
	return out, nil
}

// errNoUnified is about a v2 value on a host with v1.
var errNoUnified = fmt.Errorf("invalid configuration: this host's controllers are on cgroup v1: %w", errors.ErrUnsupported)

// applyUnified writes linux.resources.unified, a line at a time, behind everything else and so over it.
func (c *Cgroup) applyUnified(values map[string]string) error {
	for _, key := range sortedKeys(values) {
		for line := range strings.SplitSeq(strings.TrimRight(values[key], "\n"), "\n") {
			if err := writeFile(c.UnifiedDir()+"/"+key, line); err != nil {
				return fieldError(key, "unified", err)
			}
		}
	}
	return nil
}

// FieldError says that a limit could not be set, and which.
type FieldError struct {
	What     string // what the limit is called in words
	Field    string // the place in Document
	Document string // "config.json: linux.resources" for the limits that a container is made with
	Err      error
}

func (e *FieldError) Error() string {
	sep := ": "
	if e.Document == configDocument {
		sep = "."
	}
	return fmt.Sprintf("set %s: %v (%s%s%s)", e.What, e.Err, e.Document, sep, e.Field)
}

func (e *FieldError) Unwrap() error { return e.Err }

// fieldError adds to an error the place in config.json that asked for what went wrong. The "permission denied" that cgroup
// file systems answer for a file they don't have is replaced by what it means.
func fieldError(what, field string, err error) error {
	if err == nil {
		return nil
	}
	var pe *fs.PathError
	if errors.As(err, &pe) && (errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist)) && !exists(pe.Path) {
		err = fmt.Errorf("this kernel has no %s: %w", filepath.Base(pe.Path), errors.ErrUnsupported)
	}
	return &FieldError{What: what, Field: field, Document: configDocument, Err: err}
}
