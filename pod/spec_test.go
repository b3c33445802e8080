package pod

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write golden files anew")

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "512": 512, "1k": 1 << 10, "1K": 1 << 10, "64m": 64 << 20, "1.5g": 3 << 29, "2T": 2 << 40, "3b": 3, "4kb": 4 << 10,
		"5MiB": 5 << 20, "0.5k": 512, ".5m": 1 << 19, "007": 7,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", " ", "k", "b", "-1", "+1", "1 m", "1kk", "1i", "1ib", "1mk", "m1", "1e3", "0x10", "1_000", "inf", "nan", "infm", "1.2.3", "1p", "5000000t",
		"99999999999999999999",
	} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q: %d, no error", text, got)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	f.Add("1.5g")
	f.Add("nan")
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := ParseSize(text); err == nil && n < 0 {
			t.Errorf("%q: %d", text, n)
		}
	})
}

func TestParseVolume(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]Volume{
		dir + ":/data":    {Source: dir, Target: "/data"},
		dir + ":/data:ro": {Source: dir, Target: "/data", ReadOnly: true},
		dir + ":/data:rw": {Source: dir, Target: "/data"},
	} {
		if got, err := ParseVolume(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", ":", dir, dir + ":", ":/data", "data:/data", dir + ":data", dir + ":/data:", dir + ":/data:x", dir + ":/a:/b:ro", dir + "/missing:/data", "./x:/data",
	} {
		if got, err := ParseVolume(text); err == nil || !strings.Contains(err.Error(), "--volume") {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "db", "Web_1.x-y", "0", strings.Repeat("x", 63)} {
		if err := CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", ".", "..", ".x", "-x", "_x", "a/b", "a b", "a\n", "ä", "layers", strings.Repeat("x", 64), "a+b", "a\x00"} {
		if err := CheckName(name); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
	for _, id := range []string{"a+b", "_x", strings.Repeat("f", 64)} {
		if err := CheckID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", ".", "..", ".removed", "a/b", "layers", strings.Repeat("x", 129)} {
		if err := CheckID(id); err == nil {
			t.Errorf("%q is taken", id)
		}
	}
}

func TestPaths(t *testing.T) {
	a, b := CgroupPath("/a", "web"), CgroupPath("/b", "web")
	if a == b || !strings.HasPrefix(a, "/zap/") || !strings.HasSuffix(a, "-web") {
		t.Errorf("cgroups %s and %s", a, b)
	}
	link := HostLink("/a", strings.Repeat("x", 63))
	if len(link) > 15 || link == HostLink("/a", "y") || link == HostLink("/b", strings.Repeat("x", 63)) {
		t.Errorf("link %s", link)
	}
}

func options(t *testing.T) Options {
	t.Helper()
	return Options{Rootfs: t.TempDir(), Argv: []string{"/bin/true"}}
}

// TestNewBundle compares all of the specification that `zap pod run` makes with what it was.
func TestNewBundle(t *testing.T) {
	o := options(t)
	volume := t.TempDir()
	o.Argv, o.Env, o.Hostname, o.User, o.Cwd = []string{"redis-server", "--port", "1"}, []string{"A=b"}, "db", "100:101", "/data"
	o.Memory, o.CPUs, o.TTY = 64<<20, 1.5, true
	o.Volumes = []Volume{{Source: volume, Target: "/v", ReadOnly: true}}
	b, err := NewBundle("/pods/db", "/zap/db", o)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(o.Rootfs, "ROOTFS", volume, "VOLUME").Replace(string(got)) + "\n"
	golden := filepath.Join("testdata", "bundle.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if text != string(want) {
		t.Errorf("the bundle is not as in %s (go test -update writes it anew):\n%s", golden, text)
	}
}

// TestNewBundleIsolates wants a pod to share nothing with the host that it should not, whatever the options.
func TestNewBundleIsolates(t *testing.T) {
	b, err := NewBundle("/pods/x", "/zap/x", options(t))
	if err != nil {
		t.Fatal(err)
	}
	have := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range b.Spec.Linux.Namespaces {
		have[ns.Type] = ns.Path == ""
	}
	for _, ns := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace} {
		if !have[ns] {
			t.Errorf("no %s namespace of its own", ns)
		}
	}
	for _, c := range b.Spec.Process.Capabilities.Bounding {
		switch c {
		case "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_NET_ADMIN", "CAP_SYS_MODULE", "CAP_DAC_READ_SEARCH", "CAP_SYS_RAWIO":
			t.Errorf("it has %s", c)
		}
	}
	if b.Overlay.Upper != "/pods/x/upper" || b.Overlay.Work != "/pods/x/work" || len(b.Overlay.Lower) != 1 {
		t.Errorf("overlay %+v", b.Overlay)
	}
	if b.Spec.Linux.CgroupsPath != "/zap/x" || len(b.Spec.Linux.MaskedPaths) == 0 || len(b.Spec.Linux.ReadonlyPaths) == 0 {
		t.Errorf("cgroup %s, %d masked, %d read-only", b.Spec.Linux.CgroupsPath, len(b.Spec.Linux.MaskedPaths), len(b.Spec.Linux.ReadonlyPaths))
	}
	if _, err := os.Stat("/pods"); err == nil {
		t.Error("it made files")
	}
}

func TestNewBundleRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"no root":         {func(o *Options) { o.Rootfs = "" }, "--rootfs"},
		"two roots":       {func(o *Options) { o.BundleAt = t.TempDir() }, "--bundle"},
		"missing root":    {func(o *Options) { o.Rootfs = "/nowhere/at/all" }, "/nowhere/at/all"},
		"a file as root":  {func(o *Options) { o.Rootfs = file }, "not a directory"},
		"no config.json":  {func(o *Options) { o.Rootfs, o.BundleAt = "", t.TempDir() }, "config.json"},
		"no program":      {func(o *Options) { o.Argv = nil }, "no program"},
		"a name as user":  {func(o *Options) { o.User = "redis" }, "--user"},
		"half a user":     {func(o *Options) { o.User = "1:" }, "--user"},
		"a negative user": {func(o *Options) { o.User = "-1" }, "--user"},
		"a bad variable":  {func(o *Options) { o.Env = []string{"NOVALUE"} }, "process.env"},
		"a relative cwd":  {func(o *Options) { o.Cwd = "data" }, "process.cwd"},
		"a long hostname": {func(o *Options) { o.Hostname = strings.Repeat("x", 65) }, "hostname"},
	} {
		o := options(t)
		tt.change(&o)
		if _, err := NewBundle("/pods/x", "/zap/x", o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNewBundleOfBundle keeps what a bundle's config.json says and adds the options.
func TestNewBundleOfBundle(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	config := `{"ociVersion":"1.0.2","process":{"terminal":true,"user":{"uid":5,"gid":6},"args":["sh"],"cwd":"/x"},"root":{"path":"rootfs","readonly":true},"hostname":"h","linux":{"namespaces":[{"type":"uts"}],"cgroupsPath":"/mine"}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := NewBundle("/pods/x", "/zap/x", Options{BundleAt: dir, Env: []string{"A=b"}})
	if err != nil {
		t.Fatal(err)
	}
	s := b.Spec
	if s.Process.Args[0] != "sh" || !s.Process.Terminal || s.Process.User.UID != 5 || s.Process.Cwd != "/x" || s.Hostname != "h" {
		t.Errorf("not as in config.json: %+v, %s", s.Process, s.Hostname)
	}
	if b.Overlay.Lower[0] != filepath.Join(dir, "rootfs") || s.Linux.CgroupsPath != "/zap/x" || s.Process.Env[0] != "A=b" {
		t.Errorf("lower %v, cgroup %s, env %v", b.Overlay.Lower, s.Linux.CgroupsPath, s.Process.Env)
	}
}
