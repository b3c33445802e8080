package migrate

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/spec"
)

const aDigest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// testCriu is the version of CRIU that tests pretend to have on both sides.
const testCriu = 40201

// validOffer is an offer that an honest source makes of a pod without network and with one layer.
func validOffer(t testing.TB, name string) *Offer {
	t.Helper()
	root := t.TempDir()
	b, err := pod.NewBundle("/pods/"+name, "/zap/"+name, pod.Options{Rootfs: root, Argv: []string{"/bin/true"}})
	if err != nil {
		t.Fatal(err)
	}
	machine, err := spec.ReadMachine(testCriu)
	if err != nil {
		t.Fatal(err)
	}
	o := &Offer{
		Migration: aMigration, Pod: name, Bundle: b, Manifest: spec.NewManifest(b, machine), Status: "running",
		Record: pod.Record{
			UID: strings.Repeat("a", 32), Layers: []pod.Layer{{Path: root, Digest: aDigest, Fingerprint: "f"}},
			Streams: [3]string{"pipe:[12]", "", "file[1a:2b]"}, Supervisor: pod.Self(), Exit: &pod.Exit{Code: 1}, From: "elsewhere", Moves: 3,
			Network: &network.Config{HostLink: "eth0"},
		},
		Mounts: runtime.MountPlan{
			Trees:  []runtime.TreeMount{{Key: "zap-0", Target: "/dev/shm", Options: []string{"source=shm", "size=65536k", "mode=1777", "nr_inodes=7"}}},
			Binds:  []runtime.BindMount{{Key: "zap-1", Target: "/dev/null", Source: "/dev/null"}, {Key: "zap-3", Target: "/sys/fs/cgroup", Controller: "name=systemd", Below: "/x"}},
			Queues: []runtime.QueueMount{{Key: "zap-2", Target: "/dev/mqueue"}},
		},
	}
	o.Manifest.Name = name
	return o
}

// mutations are what no honest source offers, and what the refusal has to name.
var mutations = map[string]struct {
	change func(o *Offer)
	want   string
}{
	"no name":                   {func(o *Offer) { o.Pod = "" }, "name"},
	"a path as name":            {func(o *Offer) { o.Pod = "../../etc" }, "name"},
	"a hidden name":             {func(o *Offer) { o.Pod = ".criu" }, "name"},
	"the name of the layers":    {func(o *Offer) { o.Pod = "layers" }, "name"},
	"a long name":               {func(o *Offer) { o.Pod = strings.Repeat("x", 129) }, "name"},
	"another pod's manifest":    {func(o *Offer) { o.Manifest.Name = "other" }, "other"},
	"no migration":              {func(o *Offer) { o.Migration = "" }, "move"},
	"a path as migration":       {func(o *Offer) { o.Migration = "../../../../../../etc/aaaaaaaaaaaa" }, "move"},
	"a long migration":          {func(o *Offer) { o.Migration += "0" }, "move"},
	"no uid":                    {func(o *Offer) { o.Record.UID = "" }, "uid"},
	"no manifest":               {func(o *Offer) { o.Manifest = nil }, "manifest"},
	"no bundle":                 {func(o *Offer) { o.Bundle = nil }, "bundle"},
	"no specification":          {func(o *Offer) { o.Bundle.Spec = nil }, "bundle"},
	"no linux":                  {func(o *Offer) { o.Bundle.Spec.Linux = nil }, "bundle"},
	"no root":                   {func(o *Offer) { o.Bundle.Spec.Root = nil }, "bundle"},
	"no process":                {func(o *Offer) { o.Bundle.Spec.Process = nil }, "process"},
	"a wrong specification":     {func(o *Offer) { o.Bundle.Spec.Version = "9" }, "ociVersion"},
	"layers without overlay":    {func(o *Offer) { o.Bundle.Overlay = nil }, "layers"},
	"overlay without layers":    {func(o *Offer) { o.Record.Layers = nil }, "layers"},
	"too many layers":           {func(o *Offer) { o.Record.Layers = make([]pod.Layer, maxLayers+1) }, "layers"},
	"a path as digest":          {func(o *Offer) { o.Record.Layers[0].Digest = "../../etc" }, "digest"},
	"half a digest":             {func(o *Offer) { o.Record.Layers[0].Digest = aDigest[:20] }, "digest"},
	"a path as key":             {func(o *Offer) { o.Mounts.Trees[0].Key = "../../etc" }, "key"},
	"a key with options":        {func(o *Offer) { o.Mounts.Trees[0].Key = "zap-0]:/etc" }, "key"},
	"a key twice":               {func(o *Offer) { o.Mounts.Binds[0].Key = "zap-0" }, "key"},
	"a queue's key twice":       {func(o *Offer) { o.Mounts.Queues[0].Key = "zap-1" }, "key"},
	"no key":                    {func(o *Offer) { o.Mounts.Binds[0].Key = "" }, "key"},
	"a relative target":         {func(o *Offer) { o.Mounts.Trees[0].Target = "dev/shm" }, "dev/shm"},
	"a target that leads up":    {func(o *Offer) { o.Mounts.Trees[0].Target = "/dev/../../x" }, "/dev/../../x"},
	"an option of another kind": {func(o *Offer) { o.Mounts.Trees[0].Options = []string{"lowerdir=/etc"} }, "lowerdir"},
	"an option without value":   {func(o *Offer) { o.Mounts.Trees[0].Options = []string{"size"} }, "size"},
	"an option with two":        {func(o *Offer) { o.Mounts.Trees[0].Options = []string{"size=1,mode=777"} }, "size=1,mode"},
	"a path of the host":        {func(o *Offer) { o.Mounts.Binds[0].Source = "/etc" }, "manifest"},
	"beside a path": {func(o *Offer) {
		o.Manifest.Mounts = []spec.HostPath{{Source: "/srv"}}
		o.Mounts.Binds[0].Source = "/srv2"
	}, "manifest"},
	"a path that leads up":   {func(o *Offer) { o.Mounts.Binds[0].Source = "/dev/../etc" }, "source"},
	"a relative path":        {func(o *Offer) { o.Mounts.Binds[0].Source = "etc" }, "source"},
	"no path":                {func(o *Offer) { o.Mounts.Binds[0].Source = "" }, "source"},
	"a path and below":       {func(o *Offer) { o.Mounts.Binds[0].Below = "/x" }, "source"},
	"a cgroup and a path":    {func(o *Offer) { o.Mounts.Binds[1].Source = "/etc" }, "cgroup"},
	"a cgroup that leads up": {func(o *Offer) { o.Mounts.Binds[1].Below = "/../.." }, "cgroup"},
	"a path as controller":   {func(o *Offer) { o.Mounts.Binds[1].Controller = "../x" }, "cgroup"},
	"too many tmpfs":         {func(o *Offer) { o.Mounts.Trees = make([]runtime.TreeMount, maxTrees+1) }, "mounts"},
	"too many mounts":        {func(o *Offer) { o.Mounts.Binds = make([]runtime.BindMount, maxMounts) }, "mounts"},
	"a path as stream":       {func(o *Offer) { o.Record.Streams[1] = "etc/shadow" }, "stream"},
	"a stream with options":  {func(o *Offer) { o.Record.Streams[0] = "pipe:[1]]" }, "stream"},
	"a link with a slash":    {func(o *Offer) { o.Network = &network.Config{HostLink: "x", Link: "a/b"} }, "link"},
	"a sysctl of the host": {func(o *Offer) {
		o.Network = &network.Config{HostLink: "x", Sysctls: map[string]string{"kernel.core_pattern": "|/x"}}
	}, "sysctl"},
	"a sysctl that leads up": {func(o *Offer) {
		o.Network = &network.Config{HostLink: "x", Sysctls: map[string]string{"net.//.kernel": "1"}}
	}, "sysctl"},
}

func TestCheckOffer(t *testing.T) {
	if err := checkOffer(validOffer(t, "web")); err != nil {
		t.Fatalf("a valid offer: %v", err)
	}
	for name, m := range mutations {
		o := validOffer(t, "web")
		m.change(o)
		if err := checkOffer(o); err == nil || !strings.Contains(err.Error(), m.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, change := range []func(*Offer){
		func(o *Offer) {
			o.Manifest.Mounts = []spec.HostPath{{Source: "/srv"}}
			o.Mounts.Binds[0].Source = "/srv/data"
		},
		func(o *Offer) {
			o.Manifest.Mounts = []spec.HostPath{{Source: "/srv"}}
			o.Mounts.Binds[0].Source = "/srv"
		},
		func(o *Offer) { o.Manifest.Mounts = []spec.HostPath{{Source: "/"}}; o.Mounts.Binds[0].Source = "/srv" },
	} {
		o := validOffer(t, "web")
		if change(o); checkOffer(o) != nil {
			t.Errorf("what is in the manifest: %v", checkOffer(o))
		}
	}
}

// TestLocalOffer wants nothing of the source's host to be left in what the target makes of an offer.
func TestLocalOffer(t *testing.T) {
	o := validOffer(t, "web")
	o.Bundle.Spec.Linux.CgroupsPath = "/system.slice"
	b := localBundle("/root", "/root/web", o)
	if b.Dir != "/root/web" || b.Spec.Linux.CgroupsPath != pod.CgroupPath("/root", "web") || b.Spec.Hooks != nil {
		t.Errorf("bundle in %s, cgroup %s, hooks %v", b.Dir, b.Spec.Linux.CgroupsPath, b.Spec.Hooks)
	}
	if v := b.Overlay; v.Upper != "/root/web/upper" || v.Work != "/root/web/work" || len(v.Lower) != 1 || v.Lower[0] != layerPath("/root", aDigest) {
		t.Errorf("overlay %+v", v)
	}
	r := localRecord(o, "alpha", b)
	if r.Supervisor != (pod.Process{}) || r.Exit != nil || r.Network != nil || r.From != "alpha" || r.Moves != 3 || r.UID != o.Record.UID {
		t.Errorf("record %+v", r)
	}
	if l := r.Layers[0]; l.Path != v(b) || l.Fingerprint != "" || l.Digest != aDigest {
		t.Errorf("layer %+v", l)
	}
	if o.Record.Layers[0].Fingerprint != "f" || o.Bundle.Spec.Linux.CgroupsPath != "/system.slice" {
		t.Error("the offer itself was changed")
	}
}

func v(b *spec.Bundle) string { return b.Overlay.Lower[0] }

// TestDescribeNetwork wants the target to compare what it will set up, and not what the source says that it will.
func TestDescribeNetwork(t *testing.T) {
	o := validOffer(t, "web")
	o.Manifest.Bridges, o.Manifest.Addresses = []string{"harmless"}, []string{"192.0.2.1/24"}
	o.Network = &network.Config{HostLink: "x", Bridge: "br0", Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.9/24")}}
	o.describeNetwork()
	if m := o.Manifest; len(m.Bridges) != 1 || m.Bridges[0] != "br0" || len(m.Addresses) != 1 || m.Addresses[0] != "10.0.0.9/24" {
		t.Errorf("bridges %v, addresses %v", o.Manifest.Bridges, o.Manifest.Addresses)
	}
	o.Network = nil
	if o.describeNetwork(); o.Manifest.Bridges != nil || o.Manifest.Addresses != nil {
		t.Errorf("without a network: %v, %v", o.Manifest.Bridges, o.Manifest.Addresses)
	}
}

// FuzzOffer looks at any document as an offer; what passes must not be in the way of making a bundle of it.
func FuzzOffer(f *testing.F) {
	valid, err := json.Marshal(validOffer(f, "web"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(valid)
	f.Add([]byte(`{"pod":"web","migration":"0123456789abcdef0123456789abcdef","manifest":{},"bundle":{"spec":{"linux":{},"root":{}}}}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var o Offer
		if json.Unmarshal(data, &o) != nil || checkOffer(&o) != nil {
			return
		}
		b := localBundle("/root", "/root/"+o.Pod, &o)
		r := localRecord(&o, "alpha", b)
		if b.Overlay != nil && len(b.Overlay.Lower) != len(r.Layers) {
			t.Errorf("%d lower layers of %d", len(b.Overlay.Lower), len(r.Layers))
		}
		if !strings.HasPrefix(own(b), "/root/"+o.Pod+"/") {
			t.Errorf("its own files are in %s", own(b))
		}
		o.describeNetwork()
	})
}

// TestLaneReader tries sections in every order that matters.
func TestLaneReader(t *testing.T) {
	for _, tt := range []struct {
		lane     int
		sections string
		good     bool
	}{
		{laneMemory, "layer layer upper log live memory images end", true},
		{laneMemory, "upper live memory images end", true},
		{laneMemory, "upper log log live memory images end", true},
		{laneMemory, "upper upper", false},
		{laneMemory, "log upper", false},
		{laneMemory, "upper layer", false},
		{laneMemory, "upper live log", false},
		{laneMemory, "upper live live", false},
		{laneMemory, "upper live memory memory", false},
		{laneMemory, "upper live images memory", false},
		{laneMemory, "upper live memory images images", false},
		{laneMemory, "end upper", false},
		{laneMemory, "tree:zap-0", false},
		{laneMemory, "queues", false},
		{laneMemory, "surprise", false},
		{laneMemory, "", false},
		{laneFiles, "upper tree:zap-0 tree:zap-1 queues log end", true},
		{laneFiles, "upper end", true},
		{laneFiles, "upper tree:zap-0 tree:zap-0", false},
		{laneFiles, "tree:zap-0 upper", false},
		{laneFiles, "upper upper", false},
		{laneFiles, "queues queues", false},
		{laneFiles, "memory", false},
		{laneFiles, "images", false},
		{laneFiles, "layer", false},
		{laneFiles, "live", false},
	} {
		r := newLaneReader(tt.lane)
		var err error
		for _, text := range strings.Split(tt.sections, " ") {
			kind, name, _ := strings.Cut(text, ":")
			if err = r.next(&section{Kind: kind, Name: name}); err != nil {
				break
			}
		}
		if (err == nil) != tt.good {
			t.Errorf("lane %d: %s: %v", tt.lane, tt.sections, err)
		}
	}
}
