package spec

import (
	"net/netip"
	"path/filepath"
	"slices"
)

// Manifest is what a peer must match or have to take a pod. The source makes it, the target compares it with its Host.
type Manifest struct {
	// Machine is the host that the pod runs on now.
	Machine
	// Name is the pod's name.
	Name string `json:"name"`
	// Mounts are the files and directories of the host that are mounted in the pod and do not travel with it: bind mounts
	// and volumes.
	Mounts []HostPath `json:"mounts,omitempty"`
	// Bridges are the bridges that the pod's interfaces are ports of, by name.
	Bridges []string `json:"bridges,omitempty"`
	// Addresses are the pod's addresses, with or without prefix length.
	Addresses []string `json:"addresses,omitempty"`
	// Memory is the memory that the pod uses, in bytes.
	Memory int64 `json:"memory"`
	// MemoryLimit is the most memory the pod may use, in bytes, or -1 for no limit.
	MemoryLimit int64 `json:"memory_limit"`
	// Disk is what the pod's own files need, in bytes; lower layers that the target lacks come on top, see Layers.
	Disk int64 `json:"disk"`
	// Layers are the read-only lower layers, the topmost first. Those that the target lacks are sent.
	Layers []Layer `json:"layers,omitempty"`
	// Confined are the security modules that confine the pod's processes: a subset of Machine.LSM.
	Confined []string `json:"confined,omitempty"`
	// CgroupMount says that the pod has a cgroup file system mounted, whose layout it sees.
	CgroupMount bool `json:"cgroup_mount,omitempty"`
	// Limits are the cgroup controllers that the pod's limits need, by their v1 names, sorted.
	Limits []string `json:"limits,omitempty"`
	// MaxPid is the highest process id in the pod's own pid namespace, or 0 when it was not looked for.
	MaxPid int `json:"max_pid,omitempty"`
}

// HostPath is a file or directory of the host that is mounted in a pod.
type HostPath struct {
	Source string `json:"source"` // on the host
	Target string `json:"target"` // in the pod
	Kind   string `json:"kind"`   // what Source is on the pod's host: "dir", "file", or "" when nobody looked
}

// Layer is a read-only lower layer of a pod's root file system.
type Layer struct {
	Digest string `json:"digest"` // of its content: two layers of one digest are the same
	Size   int64  `json:"size"`   // bytes of its files
}

// NewManifest describes what a bundle needs of a host, with machine as the one it runs on. The caller adds what is not in
// the bundle: the name, the network, the sizes, the layers.
func NewManifest(b *Bundle, machine *Machine) *Manifest {
	m := &Manifest{Machine: *machine, MemoryLimit: -1}
	s := b.Spec
	for i := range s.Mounts {
		mount := &s.Mounts[i]
		if mount.Type == "cgroup" || mount.Type == "cgroup2" {
			m.CgroupMount = true
		}
		if !isBind(mount) {
			continue
		}
		source := mount.Source
		if !filepath.IsAbs(source) {
			source = filepath.Join(b.Dir, source)
		}
		m.Mounts = append(m.Mounts, HostPath{Source: filepath.Clean(source), Target: mount.Destination, Kind: kindOf(source)})
	}
	if p := s.Process; p != nil {
		if p.ApparmorProfile != "" && slices.Contains(machine.LSM, "apparmor") {
			m.Confined = append(m.Confined, "apparmor")
		}
	}
	if slices.Contains(machine.LSM, "selinux") { // it labels every process
		m.Confined = append(m.Confined, "selinux")
	}
	if s.Linux != nil && s.Linux.Resources != nil {
		m.Limits = neededControllers(s.Linux.Resources)
		if mem := s.Linux.Resources.Memory; mem != nil && value(mem.Limit) > 0 {
			m.MemoryLimit = *mem.Limit
		}
	}
	return m
}

// MissingLayers returns the layers of the pod that the target does not have and that are to be sent, the topmost first.
func (m *Manifest) MissingLayers(h *Host) []Layer {
	var out []Layer
	for _, l := range m.Layers {
		if !slices.Contains(h.Layers, l.Digest) && !slices.ContainsFunc(out, func(o Layer) bool { return o.Digest == l.Digest }) {
			out = append(out, l)
		}
	}
	return out
}

// Host is what a target has: its machine, its room, and what is taken on it.
type Host struct {
	Machine
	// MemoryAvailable is the memory that a new pod can use, in bytes, whatever limits it: the machine or a cgroup above it.
	MemoryAvailable int64 `json:"memory_available"`
	// DiskFree is the free space where pods are stored, in bytes.
	DiskFree int64 `json:"disk_free"`
	// PidMax is the kernel's highest process id plus one (kernel.pid_max), or 0 when it is not known.
	PidMax int `json:"pid_max"`
	// Names are the pods and containers that the host has.
	Names []string `json:"names"`
	// Addresses are those in use on the host: its own and its pods', with or without prefix length.
	Addresses []string `json:"addresses"`
	// Bridges are the host's bridges.
	Bridges []string `json:"bridges"`
	// Paths says of each source of the manifest's mounts what it is on this host: "dir", "file", or "" for nothing.
	Paths map[string]string `json:"paths"`
	// Layers are the digests of the lower layers that the host has.
	Layers []string `json:"layers"`
}

// address returns the address of an entry that may have a prefix length, in its shortest form.
func address(s string) string {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Addr().Unmap().String()
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone("").String()
	}
	return s
}
