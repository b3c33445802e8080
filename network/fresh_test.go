package network

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// TestFreshIsKept wants what a fresh namespace is like to be found out once in a boot, and every setting that differs from it to be found all the same.
func TestFreshIsKept(t *testing.T) {
	l := newLab(t)
	n := l.network(l.hostA)
	mustSet(t, n, podConfig("zapA"))
	fresh := Fresh{File: filepath.Join(t.TempDir(), "kept", "sysctls.json")}
	snapshot := func() map[string]string {
		t.Helper()
		s, err := Snapshot(t.Context(), n, podConfig("zapA"), fresh)
		if err != nil {
			t.Fatal(err)
		}
		return s.Sysctls
	}
	if got := snapshot(); len(got) != 0 {
		t.Fatalf("a new pod's settings are not those of a fresh namespace: %v", got)
	}
	first := fileOf(t, fresh)
	if snapshot(); !os.SameFile(first, fileOf(t, fresh)) {
		t.Error("a fresh namespace was made again to look at")
	}
	c := podConfig("zapA")
	c.Sysctls = map[string]string{"net.core.somaxconn": "7", "net.ipv4.conf.eth0.rp_filter": "2", "net.ipv6.neigh.eth0.gc_stale_time": "77"}
	mustSet(t, n, c)
	if got := snapshot(); !maps.Equal(got, c.Sysctls) {
		t.Errorf("found %v, not %v", got, c.Sysctls)
	}
	c.Sysctls = map[string]string{"net.core.somaxconn": "4096", "net.ipv4.conf.eth0.rp_filter": "0", "net.ipv6.neigh.eth0.gc_stale_time": "60"}
	mustSet(t, n, c)

	for name, damage := range map[string]func(f *freshFile){
		"another boot":    func(f *freshFile) { f.Boot = "that one"; f.Settings["net.core.somaxconn"] = "1" },
		"another default": func(f *freshFile) { f.Settings["net.core.somaxconn"] = "1" },
		"a new setting":   func(f *freshFile) { delete(f.Settings, "net.core.somaxconn") },
	} {
		var f freshFile
		data, err := os.ReadFile(fresh.File)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &f); err != nil {
			t.Fatal(err)
		}
		damage(&f)
		if data, err = json.Marshal(f); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(fresh.File, data, 0o600); err != nil {
			t.Fatal(err)
		}
		before := fileOf(t, fresh)
		if got := snapshot(); len(got) != 0 || os.SameFile(before, fileOf(t, fresh)) {
			t.Errorf("%s: found %v, and the file is %s", name, got, map[bool]string{true: "as it was", false: "new"}[os.SameFile(before, fileOf(t, fresh))])
		}
	}
	if err := os.WriteFile(fresh.File, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := snapshot(); len(got) != 0 {
		t.Errorf("with a torn file: %v", got)
	}
}

func fileOf(t *testing.T, f Fresh) os.FileInfo {
	t.Helper()
	info, err := os.Stat(f.File)
	if err != nil {
		t.Fatal(err)
	}
	return info
}
