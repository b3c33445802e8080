package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/runtime/cgroup"
)

// bootScript boots systemd as the first process of a pid namespace, with the cgroup hierarchies of a cgroup namespace and a /run of its own.
// $1 is the group, $2 the hierarchies as FSTYPE:OPTIONS:NAME.
const bootScript = `set -e
for dir in /sys/fs/cgroup /sys/fs/cgroup/*/; do [ -e $dir$1/cgroup.procs ] && echo $$ > $dir$1/cgroup.procs; done
exec unshare --mount --cgroup --pid --fork --kill-child --mount-proc --propagation private sh -ec '
v2=
for h in '"$2"'; do [ $h != cgroup2:-: ] || v2=1; done
if [ $v2 ]; then mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
	mount -t tmpfs tmpfs /sys/fs/cgroup
	for h in '"$2"'; do
		type=${h%%:*} rest=${h#*:}
		mkdir /sys/fs/cgroup/${rest#*:}
		mount -t $type -o ${rest%:*} cgroup /sys/fs/cgroup/${rest#*:}
	done
fi
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system
printf "[Unit]\nDescription=nothing\nDefaultDependencies=no\n" > /run/systemd/system/zap-test.target
exec env -i container=zap-test PATH=$PATH /lib/systemd/systemd --system --unit=zap-test.target >/dev/null 2>&1 </dev/null'`

// systemd is a private one.
type systemd struct {
	t   *testing.T
	pid int
	lab *ociLab
}

// bootSystemd boots one that ends with the test.
func bootSystemd(t *testing.T) *systemd {
	t.Helper()
	l := newOCILab(t)
	if _, err := os.Stat("/lib/systemd/systemd"); err != nil {
		t.Skip("needs Debian's systemd")
	}
	for _, tool := range []string{"unshare", "nsenter", "systemctl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	path := fmt.Sprintf("/zap-systemd-%d", os.Getpid())
	cg, err := cgroup.Create(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	var trees []string
	seen := map[string]bool{}
	for controller, dir := range cg.Paths() {
		name := filepath.Base(strings.TrimSuffix(dir, path))
		switch {
		case seen[dir]:
			continue
		case controller == "" && len(cg.Paths()) == 1:
			trees = append(trees, "cgroup2:-:")
		case controller == "":
			trees = append(trees, "cgroup2:rw:"+name)
		case strings.HasPrefix(controller, "name="):
			trees = append(trees, "cgroup:none,"+controller+":"+name)
		default:
			trees = append(trees, "cgroup:"+controller+":"+name)
		}
		seen[dir] = true
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(cg.Kill(ctx), cg.Delete(ctx)); err != nil {
			t.Error(err)
		}
	})
	cmd := exec.Command("sh", "-c", bootScript, "boot", path, strings.Join(trees, " "))
	out := new(strings.Builder)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	s := &systemd{t: t, lab: l}
	patience := 20 * time.Second
	if os.Getenv("ZAP_TEST_SLOWNESS") != "" { // an emulated machine
		patience = 2 * time.Minute
	}
	moved := false
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
		s.pid, _ = strconv.Atoi(strings.TrimSpace(string(children)))
		if s.pid != 0 && !moved && cgroup.Mode() == "v2" {
			// Else the group that is systemd's root would have a process beside its children, and hand no controllers down.
			if err := os.WriteFile("/sys/fs/cgroup/cgroup.procs", []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
				t.Fatal(err)
			}
			moved = true
		}
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", s.pid))
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/run/systemd/private", s.pid)); err == nil && string(comm) == "systemd\n" {
			return s
		}
		if time.Now().After(end) {
			t.Skipf("systemd does not boot in namespaces here: %s", out)
		}
	}
}

// in runs a program beside systemd.
func (s *systemd) in(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(s.pid), "-m", "-p", "-C"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	file, err := os.CreateTemp(s.t.TempDir(), "")
	if err != nil {
		s.t.Fatal(err)
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file // no pipe, which a container would keep open
	err = cmd.Run()
	text, _ := os.ReadFile(file.Name())
	return string(text), err
}

func (s *systemd) zap(args ...string) string {
	s.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := s.in("", append([]string{"env", asZap + "=1", exe, "--systemd-cgroup", "--root", "/run/zap"}, args...)...)
	if err != nil {
		s.t.Fatalf("zap %v: %v\n%s", args, err, out)
	}
	return out
}

// shows wants properties of a unit.
func (s *systemd) shows(unit string, want map[string]string) {
	s.t.Helper()
	out, err := s.in("", "systemctl", "--no-pager", "show", unit)
	if err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	for name, value := range want {
		if !strings.Contains("\n"+out, "\n"+name+"="+value+"\n") {
			_, got, _ := strings.Cut("\n"+out, "\n"+name+"=")
			got, _, _ = strings.Cut(got, "\n")
			s.t.Errorf("%s of %s is %q, want %q", name, unit, got, value)
		}
	}
}

// TestSystemdCgroup has a real systemd make a container's cgroup.
func TestSystemdCgroup(t *testing.T) {
	s := bootSystemd(t)
	l := s.lab
	l.spec.Linux.CgroupsPath = "machine-zap.slice:zap:web"
	l.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: new(int64(32 * mib))}
	l.spec.Linux.Resources.CPU = &specs.LinuxCPU{
		Shares: new(uint64(200)), Quota: new(int64(50000)), Period: new(uint64(100000)), Cpus: "0",
	}
	l.spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: new(int64(20))}
	l.spec.Annotations = map[string]string{
		"org.systemd.property.TimeoutStopSec": "5", "org.systemd.property.CollectMode": "'inactive-or-failed'",
	}
	l.program("sleep 1000")
	s.zap("run", "-d", "--bundle", l.bundle, "web")

	memory, shares := "MemoryLimit", map[string]string{"CPUShares": "200"}
	if cgroup.Mode() == "v2" {
		memory, shares = "MemoryMax", map[string]string{"CPUWeight": "29"}
	}
	const at = "/machine.slice/machine-zap.slice/zap-web.scope"
	s.shows("zap-web.scope", map[string]string{
		"ControlGroup": at, "Slice": "machine-zap.slice", "Delegate": "yes", "TasksMax": "20", "AllowedCPUs": "0", "DevicePolicy": "strict",
		"CPUQuotaPerSecUSec": "500ms", "TimeoutStopUSec": "5s", "CollectMode": "inactive-or-failed", memory: "33554432",
		"ActiveState": "active",
	})
	s.shows("zap-web.scope", shares)
	for line := range strings.Lines(s.zap("exec", "web", "cat", "/proc/self/cgroup")) {
		if !strings.HasSuffix(line, ":"+at+"\n") && !strings.HasSuffix(line, ":/\n") { // with a cgroup namespace of its own
			t.Errorf("a process is in %s", line)
		}
	}
	s.zap("update", "--memory", "64M", "--pids-limit", "-1", "--cpu-quota", "25500", "web")
	s.shows("zap-web.scope", map[string]string{memory: "67108864", "TasksMax": "infinity", "CPUQuotaPerSecUSec": "260ms"})
	file := "/sys/fs/cgroup/cpu" + at + "/cpu.cfs_quota_us"
	if cgroup.Mode() == "v2" {
		file = "/sys/fs/cgroup" + at + "/cpu.max"
	}
	if out, err := s.in("", "cat", file); err != nil || !strings.HasPrefix(out, "26000") {
		t.Errorf("quota %q, %v", out, err)
	}
	s.zap("pause", "web")
	s.zap("delete", "--force", "web")
	s.shows("zap-web.scope", map[string]string{"LoadState": "not-found"})
	if out, _ := s.in("", "find", "/sys/fs/cgroup", "-name", "zap-web.scope"); out != "" {
		t.Errorf("left behind: %s", out)
	}
}

// TestSystemdCgroupWithoutSystemd wants runc's words.
func TestSystemdCgroupWithoutSystemd(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); !errors.Is(err, fs.ErrNotExist) {
		t.Skip("needs a host without systemd")
	}
	l := newOCILab(t)
	l.spec.Linux.CgroupsPath = "system.slice:zap:web"
	l.program("true")
	l.refused(1, "systemd not running on this host, cannot use systemd cgroups manager", "--systemd-cgroup", "run", "-b", l.bundle, "web")
	l.spec.Linux.CgroupsPath = "/web"
	l.program("true")
	l.refused(1, `expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups`, "--systemd-cgroup", "run", "-b", l.bundle, "web")
}
