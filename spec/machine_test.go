package spec

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseFeatures(t *testing.T) {
	for name, c := range map[string]struct {
		cpuinfo string
		want    []string
	}{
		"x86": {
			"processor\t: 0\nflags\t\t: fpu vme nx avx512f avx2 sse2 hypervisor pni\nbugs\t\t: spectre_v1\n\nprocessor\t: 1\nflags\t\t: other\n",
			[]string{"avx2", "avx512f", "fpu", "pni", "sse2"},
		},
		"arm64": {"processor\t: 0\nBogoMIPS\t: 48.00\nFeatures\t: fp asimd sve aes\n", []string{"aes", "asimd", "fp", "sve"}},
		"none":  {"processor\t: 0\n", nil},
	} {
		if diff := cmp.Diff(c.want, parseFeatures(c.cpuinfo)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestReadCgroups(t *testing.T) {
	v2 := t.TempDir()
	if err := os.WriteFile(filepath.Join(v2, "cgroup.controllers"), []byte("cpuset cpu io memory pids\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	legacy := "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n" +
		"31 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n" +
		"32 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
	unified := "33 25 0:29 / " + v2 + " rw shared:4 - cgroup2 cgroup2 rw\n"
	for _, c := range []struct {
		mountinfo, mode string
		controllers     []string
	}{
		{legacy, "v1", []string{"cpu", "cpuacct", "memory"}},
		{legacy + unified, "hybrid", []string{"cpu", "cpuacct", "memory"}},
		{unified, "v2", []string{"blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"}},
		{"22 1 0:20 / /proc rw - proc proc rw\nbroken\n", "none", nil},
	} {
		mode, controllers := readCgroups([]byte(c.mountinfo))
		if mode != c.mode {
			t.Errorf("mode is %s, want %s", mode, c.mode)
		}
		if diff := cmp.Diff(c.controllers, controllers); diff != "" {
			t.Errorf("%s: %s", c.mode, diff)
		}
	}
}

func TestParseMemAvailable(t *testing.T) {
	got, err := parseMemAvailable("MemTotal:       24682416 kB\nMemAvailable:       1024 kB\n")
	if err != nil || got != 1<<20 {
		t.Errorf("got %d, %v", got, err)
	}
	for _, bad := range []string{"", "MemAvailable: x kB\n"} {
		if _, err := parseMemAvailable(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
