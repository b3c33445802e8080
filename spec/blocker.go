package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Blocker is a reason why a pod cannot move to a host.
type Blocker struct {
	// Code names the kind of reason and does not change between versions: see the constants.
	Code string `json:"code"`
	// Subject is what is in the way: a path, a name, a process and its descriptor.
	Subject string `json:"subject"`
	// Detail says what is wrong with it.
	Detail string `json:"detail"`
	// Hint says what to do about it.
	Hint string `json:"hint"`
}

// Codes of blockers that a comparison of two hosts finds.
const (
	BlockArch       = "arch"
	BlockPageSize   = "page-size"
	BlockCPU        = "cpu-feature"
	BlockKernel     = "kernel"
	BlockCRIU       = "criu"
	BlockCgroup     = "cgroup"
	BlockController = "cgroup-controller"
	BlockLSM        = "lsm"
	BlockMount      = "mount"
	BlockBridge     = "bridge"
	BlockNetwork    = "network"
	BlockName       = "name"
	BlockAddress    = "address"
	BlockMemory     = "memory"
	BlockDisk       = "disk"
	BlockClock      = "clock"
	BlockPid        = "pid"
	BlockModule     = "module"
)

// MaxClockSkew is how far the clocks of two hosts may be apart: time that jumps by more than that is not something that a
// program's timers and certificates shrug off.
const MaxClockSkew = 5 * time.Minute

// String returns the blocker in one line for a person.
func (b Blocker) String() string {
	s := b.Code + " " + b.Subject + ": " + b.Detail
	if b.Hint != "" {
		s += " (" + b.Hint + ")"
	}
	return s
}

// blockers collects reasons.
type blockers []Blocker

func (b *blockers) add(code, subject, hint, detail string, args ...any) {
	*b = append(*b, Blocker{Code: code, Subject: subject, Detail: fmt.Sprintf(detail, args...), Hint: hint})
}

// Blockers compares what a pod needs with what a host has and returns every reason why the pod cannot go there, in a fixed
// order; none when it can.
func (m *Manifest) Blockers(h *Host) []Blocker {
	var b blockers
	m.compareMachine(h, &b)
	m.compareCRIU(h, &b)
	m.compareCgroups(h, &b)
	m.compareLSM(h, &b)
	m.compareMounts(h, &b)
	m.compareNetwork(h, &b)
	if slices.Contains(h.Names, m.Name) {
		b.add(BlockName, m.Name, "remove or rename one of the two", "the target has a pod or container of this name")
	}
	m.compareRoom(h, &b)
	return b
}

func (m *Manifest) compareMachine(h *Host, b *blockers) {
	if m.Arch != h.Arch {
		b.add(BlockArch, h.Arch, "choose a target of the same architecture", "the pod runs on %s", m.Arch)
		return // what follows is a consequence
	}
	if m.PageSize != h.PageSize {
		b.add(BlockPageSize, strconv.Itoa(h.PageSize), "choose a target whose kernel has the same page size",
			"the pod's pages have %d bytes", m.PageSize)
	}
	var missing []string
	for _, f := range m.CPU {
		if !slices.Contains(h.CPU, f) {
			missing = append(missing, f)
		}
	}
	if len(missing) > 0 {
		b.add(BlockCPU, strings.Join(missing, " "),
			"choose a target with the same or a newer processor, or give both virtual machines the same CPU model",
			"the target's processor lacks what programs in the pod may have found at their start")
	}
	if v, ok := kernelVersion(h.Kernel); ok && v < 516 {
		b.add(BlockKernel, h.Kernel, "use Linux 5.16 or later", "the target's kernel is too old to restore a pod")
	}
	if m.MaxPid > 0 && h.PidMax > 0 && m.MaxPid >= h.PidMax {
		b.add(BlockPid, strconv.Itoa(m.MaxPid), fmt.Sprintf("sysctl kernel.pid_max=%d on the target", m.MaxPid+1),
			"a process id in the pod is not below the target's kernel.pid_max %d", h.PidMax)
	}
	if skew := time.Duration(m.Clock - h.Clock).Abs(); m.Clock != 0 && h.Clock != 0 && skew > MaxClockSkew {
		b.add(BlockClock, skew.Round(time.Second).String(), "set the clocks right, for instance with systemd-timesyncd or chrony",
			"the clocks of the two hosts are that far apart")
	}
}

// sendingCRIU is the earliest CRIU that memory can be taken from: the commands of its page server got longer in 4.2, and the two
// sides of a connection can't see which ones the other speaks.
const sendingCRIU = 40200

// compareCRIU applies what is known of CRIU: images of a version restore with the same or a later one, and each kernel since
// 6.13 that changed what CRIU looks at needs a CRIU that knows.
func (m *Manifest) compareCRIU(h *Host, b *blockers) {
	if m.CRIU > 0 && m.CRIU < sendingCRIU {
		b.add(BlockCRIU, criuVersion(m.CRIU), "install CRIU "+criuVersion(sendingCRIU)+" or later on the pod's host",
			"the pod's host has a CRIU that can't send memory over a connection of zap's")
	}
	switch {
	case h.CRIU == 0:
		b.add(BlockCRIU, "none", "install CRIU on the target, see zap check", "the target has no CRIU that works")
		return
	case h.CRIU/100 < m.CRIU/100:
		b.add(BlockCRIU, criuVersion(h.CRIU), "install CRIU "+criuVersion(m.CRIU)+" or later on the target",
			"the pod's host has CRIU %s, and an earlier one may not restore its images", criuVersion(m.CRIU))
	}
	if need := CRIUForKernel(h.Kernel); h.CRIU < need {
		b.add(BlockCRIU, criuVersion(h.CRIU), "install CRIU "+criuVersion(need)+" or later on the target",
			"it does not work with the target's kernel %s", h.Kernel)
	}
}

// CRIUForKernel returns the earliest CRIU (40201 for 4.2.1) that works with a kernel release, or 0 when any will do.
func CRIUForKernel(release string) int {
	v, ok := kernelVersion(release)
	switch {
	case !ok:
		return 0
	case v >= 701:
		return 40300
	case v >= 616:
		return 40200
	case v >= 613:
		return 40100
	}
	return 0
}

// kernelVersion returns 612 for 6.12.1-amd64.
func kernelVersion(release string) (int, bool) {
	major, rest, ok := strings.Cut(release, ".")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	x, err := strconv.Atoi(major)
	y, err2 := strconv.Atoi(rest[:end])
	return x*100 + y, ok && err == nil && err2 == nil && x < 1000 && y < 100
}

// criuVersion formats 40201 as 4.2.1.
func criuVersion(v int) string {
	s := fmt.Sprintf("%d.%d", v/10000, v/100%100)
	if v%100 != 0 {
		s += fmt.Sprintf(".%d", v%100)
	}
	return s
}

func (m *Manifest) compareCgroups(h *Host, b *blockers) {
	if m.CgroupMount && m.Cgroup != h.Cgroup {
		b.add(BlockCgroup, h.Cgroup, "choose a target with the same layout, or run the pod without a cgroup mount",
			"the pod has cgroups mounted, which are %s on its host", m.Cgroup)
	}
	for _, name := range m.Limits {
		if !slices.Contains(h.Controllers, name) {
			b.add(BlockController, name, "mount or enable the controller on the target",
				"the pod's limits need it and the target lacks it")
		}
	}
}

// compareLSM: a pod that a security module confines needs the same module; CRIU restores no other way.
func (m *Manifest) compareLSM(h *Host, b *blockers) {
	for _, name := range m.Confined {
		if !slices.Contains(h.LSM, name) {
			b.add(BlockLSM, name, "enable it on the target or run the pod unconfined",
				"it confines the pod and is not active on the target")
		}
	}
}

func (m *Manifest) compareMounts(h *Host, b *blockers) {
	for _, p := range m.Mounts {
		switch kind := h.Paths[p.Source]; {
		case kind == "":
			b.add(BlockMount, p.Source, "make it available there or mount shared storage on both hosts",
				"mounted on %s in the pod, missing on the target", p.Target)
		case p.Kind != "" && kind != p.Kind:
			b.add(BlockMount, p.Source, "make it the same on both hosts",
				"mounted on %s in the pod, a %s here and a %s on the target", p.Target, p.Kind, kind)
		}
	}
}

func (m *Manifest) compareNetwork(h *Host, b *blockers) {
	for _, name := range m.Bridges {
		if !slices.Contains(h.Bridges, name) {
			b.add(BlockBridge, name, "make it on the target: ip link add "+name+" type bridge", "the target has no such bridge")
		}
	}
	for _, a := range m.Addresses {
		if slices.ContainsFunc(h.Addresses, func(o string) bool { return address(o) == address(a) }) {
			b.add(BlockAddress, address(a), "release it on the target", "the target or a pod on it has this address already")
		}
	}
}

// compareRoom compares memory and disk. What is free is only looked at, not reserved.
func (m *Manifest) compareRoom(h *Host, b *blockers) {
	if m.Memory > h.MemoryAvailable {
		b.add(BlockMemory, Size(h.MemoryAvailable), "free memory on the target or raise the limit above the pod's cgroup",
			"the pod uses %s, and the target has less", Size(m.Memory))
	}
	need := m.Disk
	for _, l := range m.MissingLayers(h) {
		need += l.Size
	}
	if need > h.DiskFree {
		b.add(BlockDisk, Size(h.DiskFree), "free space where the target stores its pods", "the pod's files need %s", Size(need))
	}
}

// Size formats a number of bytes for people, "1.5 GiB".
func Size(bytes int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	v, i := float64(bytes), 0
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	if i == 0 || v == float64(int64(v)) {
		return fmt.Sprintf("%d %s", int64(v), units[i])
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
