package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestRDT writes to a directory that looks like a resctrl file system, which few machines have: what is made, written, compared, and
// what is removed with the container.
func TestRDT(t *testing.T) {
	root := t.TempDir()
	file := func(name string) string {
		data, _ := os.ReadFile(filepath.Join(root, name))
		return string(data)
	}
	r, err := newRDT(root, "c1", &specs.LinuxIntelRdt{
		L3CacheSchema: "L3:0=f;1=ff", MemBwSchema: "MB:0=20", Schemata: []string{"L2:0=f", "MB:0=70"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := file("c1/schemata"), "L3:0=f;1=ff\nMB:0=20\nL2:0=f\nMB:0=70\n"; got != want {
		t.Errorf("schemata %q, want %q", got, want)
	}
	if err := r.add(42); err != nil || file("c1/tasks") != "42\n" {
		t.Errorf("tasks %q, %v", file("c1/tasks"), err)
	}
	for _, name := range []string{"c1/schemata", "c1/tasks"} { // the kernel's go with their directory
		if err := os.Remove(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "c1")); err == nil {
		t.Error("the container's own class stays")
	}

	if err := os.MkdirAll(filepath.Join(root, "gold/mon_groups"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "gold/schemata"), []byte("    L3:0=00f;1=ff\n    MB:0= 20;1=100\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err = newRDT(root, "c2", &specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=F", MemBwSchema: "MB:1=100", EnableMonitoring: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.add(43); err != nil || file("gold/tasks") != "43\n" {
		t.Errorf("tasks %q, %v", file("gold/tasks"), err)
	}
	if got := file("gold/mon_groups/c2/tasks"); got != "43\n" {
		t.Errorf("monitored tasks %q", got)
	}
	if err := os.Remove(filepath.Join(root, "gold/mon_groups/c2/tasks")); err != nil {
		t.Fatal(err)
	}
	if err := r.remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "gold")); err != nil {
		t.Error("a class that was there before is gone")
	}
	if _, err := os.Stat(filepath.Join(root, "gold/mon_groups/c2")); err == nil {
		t.Error("the monitoring group stays")
	}

	if _, err := newRDT(root, "c3", &specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=7"}); err == nil ||
		!strings.Contains(err.Error(), `has "f" for L3:0, not "7"`) {
		t.Errorf("another schema: %v", err)
	}
	if _, err := newRDT(root, "c4", &specs.LinuxIntelRdt{ClosID: "missing"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a class without schemata that is not there: %v", err)
	}
	r, err = newRDT(root, "c5", &specs.LinuxIntelRdt{ClosID: "silver", L3CacheSchema: "L3:0=7"})
	if err != nil || r.Created {
		t.Errorf("a class with a name is kept: %+v, %v", r, err)
	}
	r, err = newRDT(root, "c6", &specs.LinuxIntelRdt{ClosID: "/"})
	if err != nil || r.Dir != root || r.Created {
		t.Errorf("the default class: %+v, %v", r, err)
	}
}

// TestFindResctrl finds the mount in a list, and says what is wrong on a host without.
func TestFindResctrl(t *testing.T) {
	const list = "22 1 0:21 / /proc rw - proc proc rw\n33 22 0:30 / /sys/fs/resctrl rw,relatime shared:5 - resctrl resctrl rw\n"
	if root, err := findResctrl([]byte(list)); err != nil || root != "/sys/fs/resctrl" {
		t.Errorf("%q, %v", root, err)
	}
	l := newLab(t)
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := findResctrl(data); err == nil {
		t.Skip("needs a host without Intel RDT")
	}
	b := l.bundle("true")
	b.Spec.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "x"}
	_, err = l.runtime.Create(l.ctx, "rdt", b, CreateOptions{})
	if err == nil || !errors.Is(err, errNoResctrl) || !strings.Contains(err.Error(), "(config.json: linux.intelRdt)") {
		t.Errorf("%v", err)
	}
}
