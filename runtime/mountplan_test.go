package runtime

import (
	"os"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/spec"
)

const planHost = `
20 1 8:1 / / rw - ext4 /dev/sda1 rw
21 20 0:50 / /srv/data/scratch rw - tmpfs scratch rw
22 20 0:60 / /elsewhere rw shared:7 - tmpfs other rw
`

const planContainer = `
100 99 8:1 /bundle/rootfs / ro,relatime - ext4 /dev/sda1 rw
101 100 0:70 / /proc rw - proc proc rw
102 100 0:71 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k,mode=755,inode64
103 102 0:72 / /dev/shm rw - tmpfs shm rw,size=64k,huge=never
104 101 0:71 /null /proc/keys rw - tmpfs tmpfs rw
105 100 0:73 / /sys ro - sysfs sysfs ro
106 105 0:74 / /sys/fs/cgroup ro - tmpfs tmpfs rw
107 106 0:32 /top/c1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory
108 106 0:33 /top/c1/sub /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,xattr,cpu,cpuacct
109 106 0:34 /top/c1 /sys/fs/cgroup/systemd ro - cgroup cgroup rw,name=systemd
110 106 0:35 /top/c1 /sys/fs/cgroup/unified ro - cgroup2 cgroup2 rw
111 100 8:1 /srv/data /data rw - ext4 /dev/sda1 rw
112 111 0:50 / /data/scratch rw - tmpfs scratch rw
113 111 0:75 / /data/own rw - tmpfs tmpfs rw
114 100 8:1 /bundle/hosts /etc/hosts ro - ext4 /dev/sda1 rw
115 100 0:72 / /shm rw shared:8 master:7 - tmpfs shm rw
116 102 0:6 /kvm /dev/kvm rw - devtmpfs udev rw
117 102 0:76 / /dev/mqueue rw - mqueue mqueue rw
118 100 8:1 /bundle/rootfs/empty /sys/firmware ro - ext4 /dev/sda1 rw
`

func readPlan(t *testing.T, text string) []mountInfo {
	t.Helper()
	mounts, err := parseMountInfo(strings.NewReader(strings.TrimLeft(text, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return mounts
}

func planSources() map[string]string {
	return bindSources(&spec.Bundle{Dir: "/bundle", Spec: &specs.Spec{Mounts: []specs.Mount{
		{Destination: "/proc", Type: "proc"},
		{Destination: "/dev", Type: "tmpfs"},
		{Destination: "/sys", Type: "sysfs"},
		{Destination: "/data", Source: "/srv//data/", Options: []string{"rbind"}},
		{Destination: "/data/own", Type: "tmpfs"},
		{Destination: "/etc/hosts", Source: "hosts", Type: "bind"},
	}}})
}

func TestPlanMounts(t *testing.T) {
	p := planMounts(readPlan(t, planContainer), readPlan(t, planHost), planSources(), "/top/c1")
	if len(p.refused) > 0 {
		t.Errorf("refused: %q", p.refused)
	}
	want := MountPlan{
		Trees: []TreeMount{
			{Key: "zap-0", Target: "/dev", Options: []string{"source=tmpfs", "size=65536k", "mode=755"}},
			{Key: "zap-1", Target: "/dev/shm", Options: []string{"source=shm", "size=64k"}},
			{Key: "zap-2", Target: "/sys/fs/cgroup", Options: []string{"source=tmpfs"}},
			{Key: "zap-9", Target: "/data/own", Options: []string{"source=tmpfs"}},
		},
		Binds: []BindMount{
			{Key: "zap-3", Target: "/sys/fs/cgroup/memory", Controller: "memory"},
			{Key: "zap-4", Target: "/sys/fs/cgroup/cpu,cpuacct", Controller: "cpu", Below: "/sub"},
			{Key: "zap-5", Target: "/sys/fs/cgroup/systemd", Controller: "name=systemd"},
			{Key: "zap-6", Target: "/sys/fs/cgroup/unified", Controller: "unified"},
			{Key: "zap-7", Target: "/data", Source: "/srv/data"},
			{Key: "zap-8", Target: "/data/scratch", Source: "/srv/data/scratch"},
			{Key: "zap-10", Target: "/etc/hosts", Source: "/bundle/hosts"},
			{Key: "zap-11", Target: "/dev/kvm", Source: "/dev/kvm"},
		},
		Queues: []QueueMount{{Key: "zap-12", Target: "/dev/mqueue"}},
	}
	if !reflect.DeepEqual(p.plan, want) {
		t.Errorf("the plan is\n%+v\nnot\n%+v", p.plan, want)
	}
}

func TestPlanMountsRefuses(t *testing.T) {
	for line, want := range map[string]string{
		"130 100 0:90 / /mnt rw - nfs4 server:/x rw":                       "/mnt (nfs4)",
		"130 100 9:1 / /mnt rw - xfs /dev/sdb rw":                          "/mnt (xfs)",
		"130 100 0:60 /sub /mnt rw - tmpfs other rw":                       "/mnt (tmpfs)",
		"130 105 0:32 / /sys/fs/cgroup/all rw - cgroup cgroup rw,memory":   "/sys/fs/cgroup/all (it shows the cgroup /)",
		"130 105 0:32 /top/c12 /sys/fs/other rw - cgroup cgroup rw,memory": "/sys/fs/other (it shows the cgroup /top/c12)",
		"130 102 0:91 / /dev/shm rw - tmpfs shm rw":                        "/dev/shm (one above another)",
		"130 100 8:1 /srv/x /mnt rw,idmapped - ext4 /dev/sda1 rw":          "/mnt (id-mapped)",
		"130 100 8:1 /srv/x /mnt rw,nosymfollow - ext4 /dev/sda1 rw":       "/mnt (nosymfollow)",
		"130 100 8:1 /srv/x /mnt rw shared:7 - ext4 /dev/sda1 rw":          "/mnt (what is mounted in it is shared with the host)",
	} {
		p := planMounts(readPlan(t, planContainer+line+"\n"), readPlan(t, planHost), planSources(), "/top/c1")
		if len(p.refused) != 1 || p.refused[0] != want {
			t.Errorf("of %q is refused: %q, not %q", line, p.refused, want)
		}
	}
}

// TestPlanOfKinds asks about a container that runs: what CRIU does not know is named, propagation of the container's own is not.
func TestPlanOfKinds(t *testing.T) {
	l := newLab(t)
	b := l.bundle("sleep 1000")
	b.Spec.Root.Readonly = false
	b.Spec.Linux.RootfsPropagation = "slave"
	source := t.TempDir()
	b.Spec.Mounts = append(b.Spec.Mounts,
		specs.Mount{Destination: "mapped", Source: source, Options: []string{"bind"}, UIDMappings: mapping(0, 5, 1), GIDMappings: mapping(0, 5, 1)},
		specs.Mount{Destination: "/nolinks", Source: source, Options: []string{"bind", "nosymfollow"}},
		specs.Mount{Destination: "relative", Source: source, Options: []string{"bind", "shared", "rro"}},
		specs.Mount{Destination: "/relative", Source: "none", Options: []string{"bind", "remount", "nodev"}},
		specs.Mount{Destination: "/alone", Source: source, Options: []string{"rbind", "runbindable"}})
	c := l.create("kinds", b)
	plan, err := PlanMounts(c.State())
	if err == nil || err.Error() != "mounts that can't travel: /mapped (id-mapped), /nolinks (nosymfollow)" {
		t.Errorf("refused: %v", err)
	}
	found := map[string]string{}
	for _, m := range plan.Binds {
		found[m.Target] = m.Source
	}
	if found["/relative"] != source || found["/alone"] != source {
		t.Errorf("binds: %+v", plan.Binds)
	}
}

func TestPlanSettles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a cgroup")
	}
	path := "/zap/settle-" + strings.ToLower(t.Name())
	cg, err := cgroup.Create(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer cg.Delete(t.Context())
	p := &MountPlan{Binds: []BindMount{{Target: "/data", Source: "/srv"}}}
	want := []string{"/srv"}
	for controller, dir := range cg.Paths() {
		if controller == "" {
			controller = "unified"
		}
		p.Binds = append(p.Binds, BindMount{Controller: controller, Below: "/../sub"})
		want = append(want, dir+"/sub")
	}
	if err := p.Settle(cg); err != nil {
		t.Fatal(err)
	}
	for i, m := range p.Binds {
		if m.Source != want[i] {
			t.Errorf("%s is %s, not %s", m.Controller, m.Source, want[i])
		}
	}
	p.Binds = []BindMount{{Target: "/sys/fs/cgroup/x", Controller: "name=none"}}
	if err := p.Settle(cg); err == nil || !strings.Contains(err.Error(), "/sys/fs/cgroup/x: this host has no hierarchy name=none") {
		t.Errorf("a hierarchy that is not here: %v", err)
	}
}
