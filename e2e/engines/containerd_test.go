package engines

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e/cell"
)

const ctrImage = image + ":latest"

// containerd is containerd with zap, as a test uses it by ctr.
type containerd struct{ t *testing.T }

// containerdDaemon tells containerd of zap, once, as the README says, starts it and gives it podman's image. It ends with the cell.
var containerdDaemon = sync.OnceValue(func() error {
	if err := podmanSettings(); err != nil {
		return err
	}
	if err := followReadme("/etc/containerd/"); err != nil {
		return err
	}
	log, err := os.Create("/run/containerd.log")
	if err != nil {
		return err
	}
	defer log.Close()
	daemon := exec.Command("containerd", "--log-level", "warn")
	daemon.Env = append(os.Environ(), "XDG_RUNTIME_DIR=/run") // where it leaves the images of checkpoints that it restored
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		return err
	}
	go func() { _ = daemon.Wait() }()
	for deadline := time.Now().Add(30 * time.Second); run("ctr", "version").Code != 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("containerd does not answer: %s", text)
		}
	}
	const archive = "/run/image.tar"
	defer os.Remove(archive)
	for _, args := range [][]string{{"podman", "save", "-q", "--format", "oci-archive", "-o", archive, image}, {"ctr", "image", "import", archive}} {
		if r := run(args...); r.Code != 0 || r.Err != nil {
			return errorOf(r)
		}
	}
	return nil
})

// newContainerd is containerd for one test. When that ends, nothing of it may be left.
func newContainerd(t *testing.T) *containerd {
	t.Helper()
	cell.Need(t)
	if err := containerdDaemon(); err != nil {
		t.Fatal(err)
	}
	c := &containerd{t}
	t.Cleanup(func() {
		for _, id := range strings.Fields(must(t, "ctr", "task", "ls", "-q")) {
			run("ctr", "task", "rm", "-f", id)
		}
		for _, id := range strings.Fields(must(t, "ctr", "container", "ls", "-q")) {
			must(t, "ctr", "container", "rm", id)
		}
		wantNothingLeft(t)
		if text, _ := os.ReadFile("/run/containerd.log"); t.Failed() {
			t.Logf("containerd warns:\n%s", text)
		}
	})
	return c
}

// runArgs is the beginning of a `ctr run` with zap.
func runArgs(more ...string) []string {
	path, err := exec.LookPath(runtimeName)
	if err != nil {
		path = runtimeName
	}
	return append([]string{"ctr", "run", "--runtime", "io.containerd.runc.v2", "--runc-binary", path}, more...)
}

// start starts a container that goes on.
func (c *containerd) start(id string, flags []string, args ...string) {
	c.t.Helper()
	must(c.t, append(append(runArgs(append([]string{"-d"}, flags...)...), ctrImage, id), args...)...)
}

// status is what `ctr task ls` says about a container.
func (c *containerd) status(id string) string {
	c.t.Helper()
	for line := range strings.Lines(must(c.t, "ctr", "task", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f[2]
		}
	}
	return ""
}

func (c *containerd) wantStatus(id, want string) {
	c.t.Helper()
	waitFor(c.t, "the status "+want, func() bool { return c.status(id) == want })
}

// ctrOptions are the flags of `ctr run` that end in the runtime's hands.
var ctrOptions = []option{
	{"plain", nil, "echo hello; cat /proc/1/comm", "hello\ncat"},
	{"environment", []string{"--env", "WORD=a b", "--cwd", "/var"}, "echo $WORD; pwd", "a b\n/var"},
	{"read-only", []string{"--read-only"}, "touch /x 2>&1; echo $?", "touch: /x: Read-only file system\n1"},
	{"mount", []string{"--mount", "type=bind,src=/etc/containers,dst=/mnt,options=rbind:ro"}, "ls /mnt/policy.json; touch /mnt/x 2>/dev/null || echo no", "/mnt/policy.json\nno"},
	{"tmpfs", []string{"--mount", "type=tmpfs,dst=/mnt,options=size=64k:mode=1777"}, "stat -c %a /mnt", "1777"},
	{"privileged", []string{"--privileged"}, "mkdir /mnt; mount -t tmpfs x /mnt && echo mounted", "mounted"},
	{"cap-drop", []string{"--cap-drop", "CAP_CHOWN"}, "touch /x; chown 1 /x 2>/dev/null || echo no", "no"},
	{"cap-add", []string{"--cap-add", "CAP_SYS_ADMIN", "--allow-new-privs"}, "hostname other && hostname; grep NoNew /proc/self/status", "other\nNoNewPrivs:\t0"},
	{"no-new-privileges", nil, "grep NoNew /proc/self/status", "NoNewPrivs:\t1"},
	{"host network", []string{"--net-host"}, "ls -d /sys/class/net/lo", "/sys/class/net/lo"},
	{"namespace by path", []string{"--with-ns", "uts:/proc/1/ns/uts"}, "hostname", "cell"},
	{
		"device",
		[]string{"--device", "/run/experiment"},
		"stat -c '%t:%T' /run/experiment; (true < /run/experiment) 2>&1; true",
		"f0:0\nsh: can't open /run/experiment: No such device or address",
	},
	{"seccomp", []string{"--seccomp"}, "grep Seccomp: /proc/self/status; unshare -m true 2>/dev/null || echo no", "Seccomp:\t2\nno"},
	{"no-pivot", []string{"--no-pivot"}, "ls /bin/sh", "/bin/sh"},
	{"user namespace", []string{"--uidmap", "0:200000:5000", "--gidmap", "0:200000:5000", "--remap-labels"}, "id -u; awk '{print $2}' /proc/self/uid_map", "0\n200000"},
}

// TestContainerdOptions starts a container for every flag of `ctr run` that ends in the runtime's hands, and asks inside.
func TestContainerdOptions(t *testing.T) {
	newContainerd(t)
	t.Log(strings.Join(strings.Fields(must(t, "containerd", "--version")), " "))
	if plugins := must(t, "ctr", "plugins", "ls"); !strings.Contains(strings.Join(strings.Fields(plugins), " "), "io.containerd.grpc.v1 cri linux/amd64 ok") {
		t.Errorf("Kubernetes' part of containerd does not take its configuration:\n%s", plugins)
	}
	makeDevice(t)
	for i, o := range ctrOptions {
		t.Run(o.name, func(t *testing.T) {
			args := append(runArgs(append([]string{"--rm"}, o.flags...)...), ctrImage, fmt.Sprintf("option-%d", i), "sh", "-c", o.script)
			if got := must(t, args...); got != o.want {
				t.Errorf("%s printed %q, not %q", strings.Join(args, " "), got, o.want)
			}
		})
	}
	for code, script := range map[int]string{3: "exit 3", 1: "nothing-there 2>/dev/null || exit 1"} {
		if r := run(append(runArgs("--rm"), ctrImage, fmt.Sprintf("code-%d", code), "sh", "-c", script)...); r.Code != code {
			t.Errorf("the exit code is not %d: %v", code, r)
		}
	}
	r := run(append(runArgs("--rm"), ctrImage, "nobody", "nothing-there")...)
	if r.Code == 0 || !strings.Contains(r.Stderr, `exec "nothing-there": executable file not found in $PATH`) {
		t.Errorf("a program that is not there: %v", r)
	}
	run("ctr", "container", "rm", "nobody")
	r = runWith("typed\n", append(runArgs("--rm"), ctrImage, "input", "sh", "-c", "read word; echo got $word; echo err >&2")...)
	if r.Stdout != "got typed\n" || r.Stderr != "err\n" {
		t.Errorf("the standard streams: %v", r)
	}
}

// TestContainerdLimits sets limits and reads them from the kernel.
func TestContainerdLimits(t *testing.T) {
	c := newContainerd(t)
	c.start("limited", []string{"--cpus", "0.5", "--memory-limit", "67108864", "--cpu-shares", "512"}, "sleep", "7777")
	for v1, want := range map[string][3]string{
		"memory.limit_in_bytes": {"67108864", "memory.max", "67108864"},
		"cpu.cfs_quota_us":      {"50000", "cpu.max", "50000 100000"},
		"cpu.shares":            {"512", "cpu.weight", "20"},
	} {
		if got := groupFile(t, "/default/limited", v1, want[1]); got != want[0] && got != want[2] {
			t.Errorf("%s (%s) is %q, not %q (%q)", v1, want[1], got, want[0], want[2])
		}
	}
	if metrics := must(t, "ctr", "task", "metrics", "limited"); !strings.Contains(metrics, "67108864") {
		t.Errorf("the limit is not in the metrics:\n%s", metrics)
	}
}

// TestContainerdLife takes a container through all that is done to one from outside.
func TestContainerdLife(t *testing.T) {
	c := newContainerd(t)
	c.start("life", nil, "sh", "-c", "sleep 7777 & while :; do sleep 0.1; done")
	c.wantStatus("life", "RUNNING")
	r := run("ctr", "task", "exec", "--exec-id", "one", "--cwd", "/etc", "--user", "1000", "life", "sh", "-c", "pwd; id -u; exit 4")
	if r.Stdout != "/etc\n1000\n" || r.Code != 4 {
		t.Errorf("exec: %v", r)
	}
	if r := run("ctr", "task", "exec", "--exec-id", "two", "life", "nothing-there"); r.Code == 0 || !strings.Contains(r.Stderr, "executable file not found") {
		t.Errorf("exec of what is not there: %v", r)
	}
	if ps := must(t, "ctr", "task", "ps", "life"); strings.Count(ps, "\n") < 2 {
		t.Errorf("the processes are %q", ps)
	}

	must(t, "ctr", "task", "pause", "life")
	c.wantStatus("life", "PAUSED")
	must(t, "ctr", "task", "resume", "life")
	c.wantStatus("life", "RUNNING")
	if metrics := must(t, "ctr", "task", "metrics", "life"); !strings.Contains(metrics, "pids.current") {
		t.Errorf("the metrics are %q", metrics)
	}

	must(t, "ctr", "task", "kill", "-s", "KILL", "life")
	c.wantStatus("life", "STOPPED")
	if r := run("ctr", "task", "rm", "life"); !strings.Contains(r.Stderr, "137") {
		t.Errorf("the exit code is not 137: %v", r)
	}
	if r := run("ctr", "task", "kill", "life"); r.Code == 0 {
		t.Errorf("kill of what is gone: %v", r)
	}
	must(t, "ctr", "task", "start", "-d", "life") // again, in a new task
	c.wantStatus("life", "RUNNING")
	run("ctr", "task", "rm", "-f", "life")
	if s := c.status("life"); s != "" {
		t.Errorf("the container is %s after it was removed", s)
	}
}

// TestContainerdTerminal works at the terminal of a container.
func TestContainerdTerminal(t *testing.T) {
	newContainerd(t)
	s := newScreen(t, append(runArgs("--rm", "-t", "--env", "PS1=here$ "), ctrImage, "shell", "sh")...)
	s.waitFor(0, "here$")
	s.useShell()
	other := newScreen(t, "ctr", "task", "exec", "-t", "--exec-id", "other", "shell", "sh")
	other.waitFor(0, "here$")
	other.do("tty; echo tty$((1+1))\r", "/dev/pts/1")
	other.do("exit 9\r", "")
	other.wantEnd(9)
	s.do("exit 8\r", "")
	s.wantEnd(8)
}

// TestContainerdOutOfMemory has a container killed by the kernel, and containerd know it.
func TestContainerdOutOfMemory(t *testing.T) {
	c := newContainerd(t)
	events := newScreen(t, "ctr", "events")
	c.start("hungry", []string{"--memory-limit", "16777216"}, "sh", "-c", "sleep 1; tail -n 1 /dev/zero")
	events.waitFor(0, "/tasks/start")
	c.wantStatus("hungry", "STOPPED")
	events.waitFor(0, "/tasks/oom")
	events.waitFor(0, "/tasks/exit")
}
