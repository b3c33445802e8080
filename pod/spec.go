package pod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/spec"
)

// Options are what `zap pod run` was asked for.
type Options struct {
	Rootfs   string   // a directory that becomes the read-only lower layer
	BundleAt string   // or an OCI bundle, whose config.json is kept
	Argv     []string // the program; with a bundle it may be empty
	Env      []string // K=V
	Hostname string
	Network  *network.Config
	Memory   int64   // bytes; 0: no limit
	CPUs     float64 // processors; 0: no limit
	Volumes  []Volume
	TTY      bool
	User     string // uid[:gid]
	Cwd      string
}

// NewBundle turns options into the bundle of the pod whose directory is dir
// and whose cgroup is cgroupPath. It makes no file.
//
// /dev is no mount of its own in a pod: its nodes are in the pod's layer and
// travel with it, so that a checkpoint has one file system less to save.
func NewBundle(dir, cgroupPath string, o Options) (*spec.Bundle, error) {
	var s *specs.Spec
	lower := o.Rootfs
	switch {
	case o.Rootfs != "" && o.BundleAt != "":
		return nil, errors.New("flags --rootfs and --bundle: use one of them")
	case o.BundleAt != "":
		b, err := spec.Load(o.BundleAt)
		if err != nil {
			return nil, err
		}
		s, lower = b.Spec, b.RootPath()
	case o.Rootfs != "":
		s = podSpec()
	default:
		return nil, errors.New("flag --rootfs or --bundle: one of them is needed")
	}
	lower, err := filepath.Abs(lower)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(lower); err != nil {
		return nil, fmt.Errorf("root file system: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("root file system %s: not a directory", lower)
	}
	if err := applyOptions(s, o); err != nil {
		return nil, err
	}
	s.Linux.CgroupsPath = cgroupPath
	s.Root = &specs.Root{Path: lower}
	b := &spec.Bundle{Dir: dir, Spec: s, Overlay: LocalOverlay(dir)}
	b.Overlay.Lower = []string{lower}
	return b, spec.Validate(s)
}

// podSpec is the default spec of a pod.
func podSpec() *specs.Spec {
	s := spec.Default()
	s.Hostname = "pod"
	s.Process.Terminal = false
	s.Process.Args = nil
	s.Process.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	s.Process.Rlimits = nil
	s.Process.Capabilities = podCapabilities()
	s.Mounts = keepMounts(s.Mounts, "/proc", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys")
	s.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.PIDNamespace},
		{Type: specs.NetworkNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
		{Type: specs.MountNamespace},
		{Type: specs.TimeNamespace},
	}
	return s
}

// podCapabilities are those that container engines give by default: enough for
// servers that start as root and drop to a user of their own.
func podCapabilities() *specs.LinuxCapabilities {
	names := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
	return &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
}

func keepMounts(all []specs.Mount, destinations ...string) []specs.Mount {
	var kept []specs.Mount
	for _, m := range all {
		for _, d := range destinations {
			if m.Destination == d {
				kept = append(kept, m)
			}
		}
	}
	return kept
}

func applyOptions(s *specs.Spec, o Options) error {
	if s.Process == nil {
		return errors.New("config.json: process: missing")
	}
	if len(o.Argv) > 0 {
		s.Process.Args = o.Argv
	}
	if len(s.Process.Args) == 0 {
		return errors.New("no program: name it after `--`")
	}
	s.Process.Env = append(s.Process.Env, o.Env...)
	s.Process.Terminal = o.TTY || (o.BundleAt != "" && s.Process.Terminal)
	if s.Process.Terminal {
		s.Process.Env = append(s.Process.Env, "TERM=xterm")
	}
	if o.Hostname != "" {
		s.Hostname = o.Hostname
	}
	if o.Cwd != "" {
		s.Process.Cwd = o.Cwd
	}
	if err := applyUser(s, o.User); err != nil {
		return err
	}
	for _, v := range o.Volumes {
		options := []string{"rbind", "rprivate"}
		if v.ReadOnly {
			options = append(options, "ro")
		}
		s.Mounts = append(s.Mounts, specs.Mount{Destination: v.Target, Source: v.Source, Type: "bind", Options: options})
	}
	applyLimits(s, o)
	return nil
}

func applyUser(s *specs.Spec, user string) error {
	if user == "" {
		return nil
	}
	uid, gid, both := strings.Cut(user, ":")
	u, err := strconv.ParseUint(uid, 10, 32)
	if err != nil {
		return fmt.Errorf("flag --user: %q is not UID[:GID]", user)
	}
	s.Process.User.UID, s.Process.User.GID = uint32(u), uint32(u)
	if both {
		g, err := strconv.ParseUint(gid, 10, 32)
		if err != nil {
			return fmt.Errorf("flag --user: %q is not UID[:GID]", user)
		}
		s.Process.User.GID = uint32(g)
	}
	return nil
}

func applyLimits(s *specs.Spec, o Options) {
	if s.Linux.Resources == nil {
		s.Linux.Resources = &specs.LinuxResources{}
	}
	if o.Memory > 0 {
		if s.Linux.Resources.Memory == nil {
			s.Linux.Resources.Memory = &specs.LinuxMemory{}
		}
		s.Linux.Resources.Memory.Limit = &o.Memory
	}
	if o.CPUs > 0 {
		if s.Linux.Resources.CPU == nil {
			s.Linux.Resources.CPU = &specs.LinuxCPU{}
		}
		period, quota := uint64(100000), int64(o.CPUs*100000)
		s.Linux.Resources.CPU.Period, s.Linux.Resources.CPU.Quota = &period, &quota
	}
}

// ParseVolume reads SRC:DST[:ro].
func ParseVolume(text string) (Volume, error) {
	parts := strings.Split(text, ":")
	v := Volume{}
	switch {
	case len(parts) == 3 && (parts[2] == "ro" || parts[2] == "rw"):
		v.ReadOnly = parts[2] == "ro"
	case len(parts) != 2:
		return v, fmt.Errorf("flag --volume: %q is not SRC:DST[:ro]", text)
	}
	v.Source, v.Target = parts[0], parts[1]
	if !filepath.IsAbs(v.Source) || !filepath.IsAbs(v.Target) {
		return v, fmt.Errorf("flag --volume: %q: both paths have to be absolute", text)
	}
	if _, err := os.Stat(v.Source); err != nil {
		return v, fmt.Errorf("flag --volume: %w", err)
	}
	return v, nil
}

// ParseSize reads a number of bytes with an optional suffix k, m, g or t
// (powers of 1024), which may be followed by b or ib.
func ParseSize(text string) (int64, error) {
	wrong := fmt.Errorf("size %q: write a number with an optional k, m, g or t", text)
	digits := strings.ToLower(text)
	number := strings.TrimRight(digits, "kmgtib")
	bits := uint(0)
	switch suffix := digits[len(number):]; suffix {
	case "", "b":
	default:
		bits = 10 * uint(1+strings.IndexByte("kmgt", suffix[0]))
		if rest := suffix[1:]; bits == 0 || rest != "" && rest != "b" && rest != "ib" {
			return 0, wrong
		}
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || strings.Trim(number, "0123456789.") != "" || n*float64(uint64(1)<<bits) > float64(1<<62) {
		return 0, wrong
	}
	return int64(n * float64(uint64(1)<<bits)), nil
}
