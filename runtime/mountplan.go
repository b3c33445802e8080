package runtime

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/spec"
)

// MountPlan says how the mounts of a container are carried to another host.
// CRIU makes the kernel's own file systems anew (proc, sysfs, devpts)
// and is told that the rest is external: it finds it in place when it restores.
type MountPlan struct {
	// Trees are tmpfs mounts: zap carries their content itself, because CRIU
	// starts one tar for each of them on each side.
	Trees []TreeMount `json:"trees,omitempty"`
	// Binds are files and directories of the host.
	Binds []BindMount `json:"binds,omitempty"`
	// Queues are mqueue mounts: external for the dump, because CRIU refuses one with queues in it,
	// and made anew at the restore (criu.MountAnew).
	Queues []QueueMount `json:"queues,omitempty"`
}

// QueueMount is an mqueue mount of a container.
type QueueMount struct {
	Key    string `json:"key"`
	Target string `json:"target"`
}

// QueueKeys are the keys of the mqueue mounts.
func (p *MountPlan) QueueKeys() []string {
	var keys []string
	for _, q := range p.Queues {
		keys = append(keys, q.Key)
	}
	return keys
}

// TreeMount is a tmpfs mount of a container.
type TreeMount struct {
	Key     string   `json:"key"`
	Target  string   `json:"target"`
	Options []string `json:"options,omitempty"` // of the file system: source=, size=, mode=, uid=, gid=, nr_inodes=
}

// BindMount is a bind mount of a container, or a mount of a cgroup hierarchy, which on every host shows the container's own group
// there.
type BindMount struct {
	Key    string `json:"key"`
	Target string `json:"target"`
	Source string `json:"source,omitempty"`
	// Controller is, for a cgroup hierarchy, one by which it is known: a v1 controller, name=systemd, or unified for v2. Source is then
	// empty, and Below is the directory that is shown, below the container's group.
	Controller string `json:"controller,omitempty"`
	Below      string `json:"below,omitempty"`
}

// unified is the Controller of a v2 hierarchy.
const unified = "unified"

// Settle finds the container's group in this host's hierarchies for the cgroup mounts of a plan that came from another host.
func (p *MountPlan) Settle(cg *cgroup.Cgroup) error {
	paths := cg.Paths()
	paths[unified] = cg.UnifiedDir()
	for i := range p.Binds {
		m := &p.Binds[i]
		if m.Controller == "" {
			continue
		}
		if paths[m.Controller] == "" {
			return fmt.Errorf("mount cgroup on %s: this host has no hierarchy %s", m.Target, m.Controller)
		}
		m.Source = filepath.Join(paths[m.Controller], filepath.Join("/", m.Below))
	}
	return nil
}

// Uses says whether a bind mount's source is dir or lies below it.
func (p *MountPlan) Uses(dir string) bool {
	for _, b := range p.Binds {
		if b.Source == dir || strings.HasPrefix(b.Source, dir+"/") {
			return true
		}
	}
	return false
}

// mountInfo is a line of /proc/PID/mountinfo (proc(5)).
type mountInfo struct {
	id                int
	root, target      string
	fstype, source    string
	fsOptions         []string
	device            string
	mountFlagsOptions []string
	peers             string // the group of mounts that it shares what is mounted in it with; empty for none
}

// PlanMounts reads the mounts of a container's first process and says how each of them travels. The error names every mount that can't.
func PlanMounts(s *State) (*MountPlan, error) {
	mounts, err := readMountInfo(strconv.Itoa(s.Pid))
	if err != nil {
		return nil, err
	}
	host, err := readMountInfo("self")
	if err != nil {
		return nil, err
	}
	p := planMounts(mounts, host, bindSources(s.Bundle), s.CgroupPath)
	if len(p.refused) > 0 {
		return &p.plan, fmt.Errorf("mounts that can't travel: %s", strings.Join(p.refused, ", "))
	}
	return &p.plan, nil
}

func readMountInfo(pid string) ([]mountInfo, error) {
	file, err := os.Open("/proc/" + pid + "/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	mounts, err := parseMountInfo(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	return mounts, nil
}

// planner makes a MountPlan.
type planner struct {
	sources map[string]string // of the specification's bind mounts, by target; "" for its other mounts
	host    map[string]string // devices of this host's mounts by target
	peers   map[string]bool   // groups that this host's mounts are in
	cgroup  string            // of the container
	root    string            // device of the root file system
	trees   map[string]bool   // devices of the trees
	targets map[string]bool   // what was decided about
	plan    MountPlan
	refused []string
}

func planMounts(mounts, host []mountInfo, sources map[string]string, cgroup string) *planner {
	p := &planner{sources: sources, host: map[string]string{}, peers: map[string]bool{}, cgroup: cgroup, trees: map[string]bool{}, targets: map[string]bool{}}
	for _, m := range host {
		p.host[m.target] = m.device
		p.peers[m.peers] = m.peers != ""
	}
	for _, m := range mounts {
		p.add(&m)
	}
	return p
}

// add decides about one mount.
func (p *planner) add(m *mountInfo) {
	key := fmt.Sprintf("zap-%d", len(p.plan.Trees)+len(p.plan.Binds)+len(p.plan.Queues))
	source := p.source(m)
	if p.targets[m.target] { // CRIU tells external mounts by their paths
		p.refuse(m, "one above another")
		return
	}
	p.targets[m.target] = true
	switch {
	case slices.Contains(m.mountFlagsOptions, "idmapped"): // what maps it is a namespace that CRIU knows nothing of
		p.refuse(m, "id-mapped")
	case slices.Contains(m.mountFlagsOptions, "nosymfollow"): // which CRIU drops without a word
		p.refuse(m, "nosymfollow")
	case p.peers[m.peers]: // elsewhere it would share nothing
		p.refuse(m, "what is mounted in it is shared with the host")
	case m.target == "/":
		p.root = m.device
	case source != "":
		p.plan.Binds = append(p.plan.Binds, BindMount{Key: key, Target: m.target, Source: source})
	case m.fstype == "cgroup" || m.fstype == "cgroup2":
		below, ok := strings.CutPrefix(m.root, p.cgroup)
		if !ok || below != "" && below[0] != '/' {
			p.refuse(m, "it shows the cgroup "+m.root)
			return
		}
		p.plan.Binds = append(p.plan.Binds, BindMount{Key: key, Target: m.target, Controller: controllerOf(m), Below: below})
	case m.fstype == "devtmpfs" && m.root != "/":
		p.plan.Binds = append(p.plan.Binds, BindMount{Key: key, Target: m.target, Source: "/dev" + m.root})
	case m.fstype == "tmpfs" && m.root == "/" && !p.trees[m.device]:
		p.trees[m.device] = true
		p.plan.Trees = append(p.plan.Trees, TreeMount{Key: key, Target: m.target, Options: tmpfsOptions(m)})
	case m.fstype == "mqueue":
		p.plan.Queues = append(p.plan.Queues, QueueMount{Key: key, Target: m.target})
	case m.device == p.root, carriedByCRIU(m.fstype), m.fstype == "tmpfs" && p.trees[m.device]:
		// part of the root file system, made anew by CRIU, or a bind of a tmpfs above
	default:
		p.refuse(m, m.fstype)
	}
}

func (p *planner) refuse(m *mountInfo, why string) {
	p.refused = append(p.refused, fmt.Sprintf("%s (%s)", m.target, why))
}

// source returns the path on the host of a mount that is a bind mount of the specification, or came along with one.
func (p *planner) source(m *mountInfo) string {
	for at := filepath.Clean(m.target); at != "/"; at = filepath.Dir(at) {
		source, ok := p.sources[at]
		switch {
		case !ok:
			continue
		case at == m.target:
			return source
		}
		if path := filepath.Join(source, strings.TrimPrefix(m.target, at)); source != "" && p.host[path] == m.device {
			return path
		}
		return ""
	}
	return ""
}

// controllerOf names the hierarchy that is mounted.
func controllerOf(m *mountInfo) string {
	if m.fstype == "cgroup2" {
		return unified
	}
	for _, o := range m.fsOptions {
		switch name, _, _ := strings.Cut(o, "="); name {
		case "rw", "ro", "xattr", "none", "release_agent", "clone_children", "noprefix", "cpuset_v2_mode":
		default:
			return o
		}
	}
	return ""
}

// bindSources maps the destination of each mount of the specification to its source, "" when it is no bind mount.
func bindSources(b *spec.Bundle) map[string]string {
	sources := map[string]string{}
	for _, m := range b.Spec.Mounts {
		if slices.Contains(m.Options, "remount") {
			continue // it changes a mount that is there
		}
		source := ""
		if isBind(m) {
			if source = m.Source; !filepath.IsAbs(source) {
				source = filepath.Join(b.Dir, source)
			}
			source = filepath.Clean(source)
		}
		sources[filepath.Join("/", m.Destination)] = source
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
	case "proc", "sysfs", "devpts", "securityfs", "debugfs", "tracefs", "configfs", "pstore", "binfmt_misc":
		return true
	}
	return false
}

// tmpfsOptions keeps the options that describe the file system itself.
func tmpfsOptions(m *mountInfo) []string {
	kept := []string{"source=" + m.source}
	for _, o := range m.fsOptions {
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
		for _, field := range left[6:] {
			if group, ok := strings.CutPrefix(field, "shared:"); ok {
				m.peers = group
			}
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
