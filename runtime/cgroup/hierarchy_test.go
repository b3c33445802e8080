package cgroup

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mountinfos are real layouts and what they mean: mount points by name of the controller, v2 as "".
var mountinfos = map[string]struct {
	content, mode string
	want          []string
}{
	"every controller for itself, and v2": {
		`
24 1 0:22 / /proc rw,relatime - proc proc rw
30 24 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
32 30 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
33 30 0:29 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
34 30 0:30 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd`,
		"hybrid",
		[]string{"cpu=/sys/fs/cgroup/cpu", "freezer=/sys/fs/cgroup/freezer", "name=systemd=/sys/fs/cgroup/systemd", "=/sys/fs/cgroup/unified"},
	},
	"controllers together": {
		`
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct`,
		"v1",
		[]string{"cpu=/sys/fs/cgroup/cpu,cpuacct", "cpuacct=/sys/fs/cgroup/cpu,cpuacct"},
	},
	"v2": {
		`
29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot`,
		"v2",
		[]string{"=/sys/fs/cgroup"},
	},
	"a hierarchy mounted twice": {
		`
31 30 0:27 / /mnt/copy\040of rw - cgroup cgroup rw,memory
32 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /mnt/v2\040too rw - cgroup2 none rw`,
		"hybrid",
		[]string{"memory=/sys/fs/cgroup/memory", "=/mnt/v2 too"},
	},
	"damaged lines": {
		`
31
31 30 0:27 / - cgroup
31 30 0:27 / /sys/fs/cgroup/x rw - cgroup cgroup rw,future
32 30 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids`,
		"v1",
		[]string{"pids=/sys/fs/cgroup/pids"},
	},
}

func TestDiscover(t *testing.T) {
	for name, c := range mountinfos {
		hs, err := discover([]byte(c.content))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, h := range hs {
			for _, n := range h.names {
				got = append(got, n+"="+h.mount)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: want (-), got (+):\n%s", name, diff)
		}
		if mode := modeOf(hs); mode != c.mode {
			t.Errorf("%s: mode is %s, want %s", name, mode, c.mode)
		}
	}
	if _, err := discover([]byte("24 1 0:22 / /proc rw - proc proc rw\n")); err == nil || !strings.Contains(err.Error(), "none is mounted") {
		t.Errorf("no cgroups: %v", err)
	}
}

func TestCleanPath(t *testing.T) {
	for path, want := range map[string]string{"/zap/web": "/zap/web", "zap/web": "/zap/web", "//zap//web/": "/zap/web", "a..b": "/a..b"} {
		if got, err := cleanPath(path); err != nil || got != want {
			t.Errorf("cleanPath(%q) = %q, %v, want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"", "/", ".", "//.", "/zap/../../etc", "..", "/a\nb", "/a\x00b", strings.Repeat("/x", 2000)} {
		if got, err := cleanPath(path); err == nil {
			t.Errorf("cleanPath(%.20q) = %q, want an error", path, got)
		}
	}
}

func TestParsePids(t *testing.T) {
	if got := parsePids("12\n7\n0\n12\nx\n"); !slices.Equal(got, []int{0, 7, 12}) {
		t.Errorf("got %v", got)
	}
	if got := parsePids(""); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

func TestDeviceRule(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	for want, r := range map[string]specs.LinuxDeviceCgroup{
		"a *:* rwm": {},
		"c 1:* r":   {Type: "c", Major: n(1), Minor: n(-1), Access: "r"},
		"b 8:0 wm":  {Type: "b", Major: n(8), Minor: n(0), Access: "wm"},
	} {
		if got := deviceRule(r); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := withDefaults(nil); got != nil {
		t.Errorf("no rules became %v", got)
	}
}
