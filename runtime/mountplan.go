package runtime

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/spec"
)

// MountPlan says how the mounts of a container are carried to another host.
// CRIU makes the kernel's own file systems anew (proc, sysfs, devpts, mqueue)
// and is told that the rest is external: it finds it in place when it restores.
type MountPlan struct {
	// Trees are tmpfs mounts: zap carries their content itself, because CRIU
	// starts one tar for each of them on each side.
	Trees []TreeMount `json:"trees,omitempty"`
	// Binds are files and directories of the host.
	Binds []BindMount `json:"binds,omitempty"`
}

// TreeMount is a tmpfs mount of a container.
type TreeMount struct {
	Key     string   `json:"key"`
	Target  string   `json:"target"`
	Options []string `json:"options,omitempty"` // of the file system: size=, mode=, uid=, gid=, nr_inodes=
}

// BindMount is a bind mount of a container.
type BindMount struct {
	Key    string `json:"key"`
	Target string `json:"target"`
	Source string `json:"source"`
}

// mountInfo is a line of /proc/PID/mountinfo (proc(5)).
type mountInfo struct {
	id                int
	root, target      string
	fstype, source    string
	fsOptions         []string
	device            string
	mountFlagsOptions []string
}

// PlanMounts reads the mounts of the process pid and says how each of them
// travels. The error names every mount that can't.
func PlanMounts(pid int, b *spec.Bundle) (*MountPlan, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	mounts, err := parseMountInfo(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	return planMounts(mounts, b)
}

func planMounts(mounts []mountInfo, b *spec.Bundle) (*MountPlan, error) {
	plan := &MountPlan{}
	sources := bindSources(b)
	rootDevice := ""
	var refused []string
	for _, m := range mounts {
		key := fmt.Sprintf("zap-%d", len(plan.Trees)+len(plan.Binds))
		source, bound := sources[filepath.Clean(m.target)]
		switch {
		case m.target == "/":
			rootDevice = m.device
		case bound:
			plan.Binds = append(plan.Binds, BindMount{Key: key, Target: m.target, Source: source})
		case m.fstype == "devtmpfs" && m.root != "/":
			plan.Binds = append(plan.Binds, BindMount{Key: key, Target: m.target, Source: "/dev" + m.root})
		case m.fstype == "tmpfs" && m.root == "/":
			plan.Trees = append(plan.Trees, TreeMount{Key: key, Target: m.target, Options: tmpfsOptions(m.fsOptions)})
		case m.device == rootDevice, carriedByCRIU(m.fstype), m.fstype == "tmpfs":
			// part of the root file system, made anew by CRIU, or a bind of a tmpfs above
		default:
			refused = append(refused, fmt.Sprintf("%s (%s)", m.target, m.fstype))
		}
	}
	if len(refused) > 0 {
		return plan, fmt.Errorf("mounts that can't travel: %s", strings.Join(refused, ", "))
	}
	return plan, nil
}

// bindSources maps the destination of each bind mount of the spec to its source.
func bindSources(b *spec.Bundle) map[string]string {
	sources := map[string]string{}
	for _, m := range b.Spec.Mounts {
		if isBind(m) {
			source := m.Source
			if !filepath.IsAbs(source) {
				source = filepath.Join(b.Dir, source)
			}
			sources[filepath.Clean(m.Destination)] = source
		}
	}
	return sources
}

func isBind(m specs.Mount) bool {
	if m.Type == "bind" {
		return true
	}
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}

// carriedByCRIU lists the file systems that CRIU makes anew by itself.
func carriedByCRIU(fstype string) bool {
	switch fstype {
	case "proc", "sysfs", "devpts", "mqueue", "securityfs", "debugfs", "tracefs", "configfs", "pstore", "binfmt_misc", "cgroup", "cgroup2":
		return true
	}
	return false
}

// tmpfsOptions keeps the options that describe the file system itself.
func tmpfsOptions(options []string) []string {
	var kept []string
	for _, o := range options {
		name, _, _ := strings.Cut(o, "=")
		switch name {
		case "size", "nr_inodes", "mode", "uid", "gid":
			kept = append(kept, o)
		}
	}
	return kept
}

// parseMountInfo reads the format of proc(5), at most 100,000 lines.
func parseMountInfo(r io.Reader) ([]mountInfo, error) {
	var mounts []mountInfo
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		before, after, found := strings.Cut(lines.Text(), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !found || len(left) < 6 || len(right) < 2 {
			return nil, fmt.Errorf("line %q is no mount", lines.Text())
		}
		id, err := strconv.Atoi(left[0])
		if err != nil {
			return nil, fmt.Errorf("line %q is no mount", lines.Text())
		}
		m := mountInfo{
			id: id, device: left[2], root: unescape(left[3]), target: unescape(left[4]),
			mountFlagsOptions: strings.Split(left[5], ","), fstype: right[0], source: unescape(right[1]),
		}
		if len(right) > 2 {
			m.fsOptions = strings.Split(right[2], ",")
		}
		mounts = append(mounts, m)
		if len(mounts) > 100_000 {
			return nil, fmt.Errorf("more than %d mounts", 100_000)
		}
	}
	return mounts, lines.Err()
}

// unescape undoes the octal escapes of /proc's mount tables.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
