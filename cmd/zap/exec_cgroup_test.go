package main

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/zap-migrate/zap/runtime/cgroup"
)

func TestSubCgroups(t *testing.T) {
	for _, c := range []struct {
		values []string
		want   map[string]string
		fails  string
	}{
		{nil, nil, ""},
		{[]string{"sub"}, map[string]string{"": "sub"}, ""},
		{[]string{"memory:a", "cpu,cpuacct:b"}, map[string]string{"memory": "a", "cpu": "b", "cpuacct": "b"}, ""},
		{[]string{"a", "b"}, nil, "missing <controller>: prefix"},
		{[]string{":a"}, nil, "empty <controller> prefix"},
		{[]string{"cpu,:a"}, nil, "empty <controller> prefix"},
		{[]string{"cpu:a", "cpu:b"}, nil, "controller cpu specified multiple times"},
	} {
		got, err := subCgroups(c.values)
		if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) || !maps.Equal(got, c.want) {
			t.Errorf("%q: %v, %v", c.values, got, err)
		}
	}
}

// TestExecCgroup runs processes in groups below the container's.
func TestExecCgroup(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	l.start("one")
	t.Cleanup(func() { _, _, _ = l.zap("delete", "--force", "one") })
	cg, err := cgroup.Load(l.spec.Linux.CgroupsPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range cg.Paths() {
		if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	if dir := cg.Paths()["cpuset"]; dir != "" { // nobody can enter an empty one
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(dir, file))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, "sub", file), value, 0)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	in := func(args ...string) string {
		return l.must(append(append([]string{"exec"}, args...), "one", "cat", "/proc/self/cgroup")...)
	}
	for line := range strings.Lines(in("--cgroup", "/")) {
		if strings.Contains(line, "/sub") {
			t.Errorf("with /: %s", line)
		}
	}
	for line := range strings.Lines(in("--cgroup", "sub")) {
		if !strings.HasSuffix(strings.TrimSpace(line), "/sub") {
			t.Errorf("with sub: %s", line)
		}
	}
	if _, v1 := cg.Paths()["memory"]; v1 {
		for line := range strings.Lines(in("--cgroup", "memory,pids:sub")) {
			if below := strings.Contains(line, ":memory:") || strings.Contains(line, ":pids:"); below != strings.HasSuffix(line, "/sub\n") {
				t.Errorf("with memory,pids:sub: %s", line)
			}
		}
		l.refused(255, "adding pid to cgroups: open", "exec", "--cgroup", "cpu:nowhere", "one", "true")
	}
	l.refused(255, "bad sub cgroup path", "exec", "--cgroup", "..", "one", "true")
	l.refused(255, "bad sub cgroup path", "exec", "--cgroup", "../"+filepath.Base(l.spec.Linux.CgroupsPath)+"x", "one", "true")
	l.refused(255, "no such file", "exec", "--cgroup", "nowhere", "one", "true")
	l.refused(255, "unknown controller", "exec", "--cgroup", "what:/", "one", "true")
}

// TestExecFollowsInit: where the container's group of cgroup v2 hands controllers down it may have no processes of its own, so a new
// one goes to where the first one is.
func TestExecFollowsInit(t *testing.T) {
	l := newOCILab(t)
	l.program("sleep 1000")
	l.start("one")
	t.Cleanup(func() { _, _, _ = l.zap("delete", "--force", "one") })
	cg, err := cgroup.Load(l.spec.Linux.CgroupsPath)
	if err != nil {
		t.Fatal(err)
	}
	dir := cg.UnifiedDir()
	offered, _ := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers")
	if dir == "" || !strings.Contains(dir, "unified") || !strings.Contains(string(offered), "hugetlb") {
		t.Skip("needs the hugetlb controller on the v2 tree of a hybrid host")
	}
	for d := filepath.Dir(dir); strings.HasPrefix(d, "/sys/fs/cgroup/unified"); d = filepath.Dir(d) {
		if err := os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("+hugetlb"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir+"/foo", 0o755); err != nil {
		t.Fatal(err)
	}
	pids, err := os.ReadFile(dir + "/cgroup.procs")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/foo/cgroup.procs", pids, 0); err != nil {
		t.Fatal(err)
	}
	if out := l.must("exec", "one", "grep", "^0:", "/proc/self/cgroup"); strings.Contains(out, "foo") {
		t.Errorf("without controllers in %s", out)
	}
	if err := os.WriteFile(dir+"/cgroup.subtree_control", []byte("+hugetlb"), 0); err != nil {
		t.Fatal(err)
	}
	if out := l.must("exec", "one", "grep", "^0:", "/proc/self/cgroup"); !strings.HasSuffix(out, "/foo\n") {
		t.Errorf("with controllers in %s", out)
	}
}
