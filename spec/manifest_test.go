package spec_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/spec"
)

func machine() spec.Machine {
	return spec.Machine{
		Arch: "amd64", Kernel: "6.12.107-amd64", CRIU: 40201, CPU: []string{"avx2", "fma", "sse2"}, PageSize: 4096, Cgroup: "hybrid",
		Controllers: []string{"cpu", "devices", "memory", "pids"}, LSM: []string{"apparmor"}, Clock: 1_700_000_000_000_000_000,
	}
}

// pair returns a pod and a host that can take it.
func pair() (*spec.Manifest, *spec.Host) {
	m := &spec.Manifest{
		Machine: machine(), Name: "web", Memory: 300 << 20, MemoryLimit: -1, Disk: 10 << 20,
		Mounts:  []spec.HostPath{{Source: "/srv/data", Target: "/data", Kind: "dir"}},
		Bridges: []string{"br0"}, Addresses: []string{"10.1.0.5/24", "fd00::5/64"},
		Layers:   []spec.Layer{{Digest: "sha256:a", Size: 100 << 20}, {Digest: "sha256:b", Size: 1 << 30}},
		Confined: []string{"apparmor"}, CgroupMount: true, Limits: []string{"devices", "memory"}, MaxPid: 40000,
	}
	h := &spec.Host{
		Machine: machine(), MemoryAvailable: 1 << 30, DiskFree: 200 << 20, PidMax: 4194304, Names: []string{"db"},
		Addresses: []string{"10.1.0.1/24", "::1/128"}, Bridges: []string{"br0"}, Paths: map[string]string{"/srv/data": "dir"},
		Layers: []string{"sha256:b"},
	}
	return m, h
}

func TestBlockers(t *testing.T) {
	for name, c := range map[string]struct {
		change func(m *spec.Manifest, h *spec.Host)
		want   []string // code and subject
	}{
		"equal":           {func(*spec.Manifest, *spec.Host) {}, nil},
		"arch":            {func(m *spec.Manifest, h *spec.Host) { h.Arch, h.PageSize, h.CPU = "arm64", 65536, nil }, []string{"arch arm64"}},
		"page size":       {func(m *spec.Manifest, h *spec.Host) { h.PageSize = 65536 }, []string{"page-size 65536"}},
		"cpu":             {func(m *spec.Manifest, h *spec.Host) { h.CPU = []string{"sse2"} }, []string{"cpu-feature avx2 fma"}},
		"better cpu":      {func(m *spec.Manifest, h *spec.Host) { h.CPU = append(h.CPU, "avx512f") }, nil},
		"newer kernel":    {func(m *spec.Manifest, h *spec.Host) { h.Kernel, h.CRIU = "7.3.4-1", 40300 }, nil},
		"old kernel":      {func(m *spec.Manifest, h *spec.Host) { h.Kernel = "5.4.0" }, []string{"kernel 5.4.0"}},
		"no criu":         {func(m *spec.Manifest, h *spec.Host) { h.CRIU = 0 }, []string{"criu none"}},
		"older criu":      {func(m *spec.Manifest, h *spec.Host) { h.CRIU = 40101 }, []string{"criu 4.1.1"}},
		"oldest criu":     {func(m *spec.Manifest, h *spec.Host) { m.CRIU = 40101 }, []string{"criu 4.1.1"}},
		"patch level":     {func(m *spec.Manifest, h *spec.Host) { h.CRIU = 40200 }, nil},
		"criu and kernel": {func(m *spec.Manifest, h *spec.Host) { h.Kernel = "7.1.0" }, []string{"criu 4.2.1"}},
		"cgroup":          {func(m *spec.Manifest, h *spec.Host) { h.Cgroup = "v2" }, []string{"cgroup v2"}},
		"cgroup unseen":   {func(m *spec.Manifest, h *spec.Host) { h.Cgroup, m.CgroupMount = "v2", false }, nil},
		"controller":      {func(m *spec.Manifest, h *spec.Host) { h.Controllers = []string{"devices"} }, []string{"cgroup-controller memory"}},
		"lsm":             {func(m *spec.Manifest, h *spec.Host) { h.LSM = nil }, []string{"lsm apparmor"}},
		"lsm unused":      {func(m *spec.Manifest, h *spec.Host) { h.LSM, m.Confined = nil, nil }, nil},
		"mount missing":   {func(m *spec.Manifest, h *spec.Host) { h.Paths = nil }, []string{"mount /srv/data"}},
		"mount kind":      {func(m *spec.Manifest, h *spec.Host) { h.Paths["/srv/data"] = "file" }, []string{"mount /srv/data"}},
		"bridge":          {func(m *spec.Manifest, h *spec.Host) { h.Bridges = nil }, []string{"bridge br0"}},
		"name":            {func(m *spec.Manifest, h *spec.Host) { h.Names = append(h.Names, "web") }, []string{"name web"}},
		"address":         {func(m *spec.Manifest, h *spec.Host) { h.Addresses = []string{"10.1.0.5"} }, []string{"address 10.1.0.5"}},
		"same IPv6 address": {
			func(m *spec.Manifest, h *spec.Host) { h.Addresses = []string{"fd00:0:0::5/128"} },
			[]string{"address fd00::5"},
		},
		"memory":       {func(m *spec.Manifest, h *spec.Host) { h.MemoryAvailable = 200 << 20 }, []string{"memory 200 MiB"}},
		"disk":         {func(m *spec.Manifest, h *spec.Host) { h.DiskFree = 109 << 20 }, []string{"disk 109 MiB"}},
		"disk exactly": {func(m *spec.Manifest, h *spec.Host) { h.DiskFree = 110 << 20 }, nil},
		"layer twice": {func(m *spec.Manifest, h *spec.Host) {
			m.Layers = append(m.Layers, m.Layers[0])
			h.DiskFree = 110 << 20
		}, nil},
		"layers to send": {func(m *spec.Manifest, h *spec.Host) { h.Layers = nil }, []string{"disk 200 MiB"}},
		"clock ahead":    {func(m *spec.Manifest, h *spec.Host) { h.Clock += int64(time.Hour) }, []string{"clock 1h0m0s"}},
		"clock behind":   {func(m *spec.Manifest, h *spec.Host) { h.Clock -= int64(time.Hour) }, []string{"clock 1h0m0s"}},
		"clock near":     {func(m *spec.Manifest, h *spec.Host) { h.Clock += int64(spec.MaxClockSkew) }, nil},
		"pid":            {func(m *spec.Manifest, h *spec.Host) { h.PidMax = 32768 }, []string{"pid 40000"}},
	} {
		t.Run(name, func(t *testing.T) {
			m, h := pair()
			c.change(m, h)
			var got []string
			for _, b := range m.Blockers(h) {
				got = append(got, b.Code+" "+b.Subject)
				if b.Detail == "" || b.Hint == "" || strings.Contains(b.String(), "%!") {
					t.Errorf("incomplete: %q", b)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
		})
	}
}

// TestBlockersReportsAllAtOnce: a host that has nothing, and the order is always the same.
func TestBlockersReportsAllAtOnce(t *testing.T) {
	m, _ := pair()
	h := &spec.Host{
		Machine: spec.Machine{Arch: "amd64", Kernel: "4.19.0", PageSize: 65536, Cgroup: "none", Clock: 1}, PidMax: 300,
		Names: []string{"web"}, Addresses: []string{"10.1.0.5", "fd00::5"},
	}
	var got []string
	for _, b := range m.Blockers(h) {
		got = append(got, b.Code)
	}
	want := []string{
		"page-size", "cpu-feature", "kernel", "pid", "clock", "criu", "cgroup", "cgroup-controller", "cgroup-controller", "lsm",
		"mount", "bridge", "address", "address", "name", "memory", "disk",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
}

func TestNewManifest(t *testing.T) {
	here := machine()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hosts"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := spec.Default()
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/data", Source: dir, Options: []string{"rbind"}},
		specs.Mount{Destination: "/etc/hosts", Source: "hosts", Type: "bind"},
		specs.Mount{Destination: "/gone", Source: "/nowhere/at/all", Type: "bind"})
	s.Process.ApparmorProfile = "zap"
	s.Process.SelinuxLabel = "label"
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: ptr(int64(1 << 30))}
	s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: ptr(int64(50000)), Cpus: "0"}
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: ptr(int64(0))}
	m := spec.NewManifest(&spec.Bundle{Dir: dir, Spec: s}, &here)
	want := &spec.Manifest{
		Machine: here, MemoryLimit: 1 << 30, CgroupMount: true, Confined: []string{"apparmor"},
		Limits: []string{"cpu", "cpuset", "devices", "memory"},
		Mounts: []spec.HostPath{
			{Source: dir, Target: "/data", Kind: "dir"},
			{Source: filepath.Join(dir, "hosts"), Target: "/etc/hosts", Kind: "file"},
			{Source: "/nowhere/at/all", Target: "/gone"},
		},
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
}

// TestManifestTravels: what the target compares is what the source wrote, through JSON.
func TestManifestTravels(t *testing.T) {
	m, _ := pair()
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	got := new(spec.Manifest)
	if err := json.Unmarshal(data, got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(m, got); diff != "" {
		t.Error(diff)
	}
}

func TestReadMachine(t *testing.T) {
	m, err := spec.ReadMachine(40201)
	if err != nil {
		t.Fatal(err)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	if m.Kernel != strings.TrimSpace(string(release)) || m.CRIU != 40201 || m.PageSize != os.Getpagesize() {
		t.Errorf("got %+v", m)
	}
	if m.Arch == "amd64" && (!slices.Contains(m.CPU, "sse2") || !slices.Contains(m.CPU, "fxsr")) {
		t.Errorf("amd64 without sse2 or fxsr: %v", m.CPU)
	}
	for _, kernels := range []string{"hypervisor", "constant_tsc", "ibrs", "apic", "nx"} {
		if slices.Contains(m.CPU, kernels) {
			t.Errorf("%s is no feature that a program can use", kernels)
		}
	}
	if d := time.Since(time.Unix(0, m.Clock)); d < 0 || d > time.Minute {
		t.Errorf("clock is off by %s", d)
	}
}

func TestReadHost(t *testing.T) {
	dir := t.TempDir()
	m := &spec.Manifest{Mounts: []spec.HostPath{{Source: dir}, {Source: "/proc/self/status"}, {Source: dir + "/no"}}}
	h, err := spec.ReadHost(m, filepath.Join(dir, "not", "made", "yet"), "/zap/x", 40201)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{dir: "dir", "/proc/self/status": "file", dir + "/no": ""}
	if diff := cmp.Diff(want, h.Paths); diff != "" {
		t.Error(diff)
	}
	if h.MemoryAvailable <= 0 || h.DiskFree <= 0 || h.PidMax < 300 {
		t.Errorf("got %+v", h)
	}
	if !slices.ContainsFunc(h.Addresses, func(a string) bool { return strings.HasPrefix(a, "127.0.0.1/") }) {
		t.Errorf("no loopback address in %v", h.Addresses)
	}
	self := &spec.Manifest{Machine: h.Machine, Name: "x", MemoryLimit: -1}
	if b := self.Blockers(h); len(b) > 0 {
		t.Errorf("this machine cannot take its own pod: %v", b)
	}
}

func TestCRIUForKernel(t *testing.T) {
	for release, want := range map[string]int{
		"6.1.0-49-amd64": 0, "6.12.107": 0, "6.13.0": 40100, "6.15.9": 40100, "6.16.0-rc1": 40200, "6.18.44-x": 40200, "7.0.1": 40200,
		"7.1.0": 40300, "7.10.2": 40300, "": 0, "six": 0, "6": 0,
	} {
		if got := spec.CRIUForKernel(release); got != want {
			t.Errorf("CRIUForKernel(%q) = %d, want %d", release, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 3 << 30: "3 GiB", -5: "-5 B"} {
		if got := spec.Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}
