package runtime

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/spec"
)

// attributes is a process with every attribute that the kernel can tell about afterwards.
func attributes(p *specs.Process) {
	umask, score := uint32(0o027), 300
	p.User = specs.User{UID: 7, GID: 8, Umask: &umask, AdditionalGids: []uint32{9, 10}}
	p.OOMScoreAdj = &score
	p.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 7}
	p.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 5}
	p.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 1, Hard: 2}, {Type: "RLIMIT_NOFILE", Soft: 33, Hard: 44}}
	kill := []string{"CAP_KILL"}
	p.Capabilities = &specs.LinuxCapabilities{Bounding: kill, Effective: kill, Permitted: kill, Inheritable: kill, Ambient: kill}
	p.NoNewPrivileges = true
}

// checkAttributes compares a process with what attributes asks for.
func checkAttributes(t *testing.T, pid int) {
	t.Helper()
	attr, err := unix.SchedGetAttr(pid, 0)
	if err != nil || attr.Policy != unix.SCHED_BATCH || attr.Nice != 7 {
		t.Errorf("scheduler %+v, %v", attr, err)
	}
	if io, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, 1, uintptr(pid), 0); errno != 0 || io != 2<<13|5 {
		t.Errorf("I/O priority %#x, %v", io, errno)
	}
	for file, want := range map[string][]string{
		"status": {
			"Umask:\t0027", "Uid:\t7\t7\t7\t7", "Gid:\t8\t8\t8\t8", "Groups:\t9 10 ", "CapInh:\t0000000000000020", "CapPrm:\t0000000000000020",
			"CapEff:\t0000000000000020", "CapBnd:\t0000000000000020", "CapAmb:\t0000000000000020", "NoNewPrivs:\t1",
		},
		"oom_score_adj": {"300"},
		"personality":   {"00000008"},
		"limits":        {`Max core file size\s+1\s+2\s`, `Max open files\s+33\s+44\s`},
		"numa_maps":     {` bind=static:0 `},
	} {
		lacks := func() (missing []string, data []byte) {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
			if err != nil {
				t.Error(err)
			}
			return slices.DeleteFunc(slices.Clone(want), func(w string) bool { return regexp.MustCompile("(?m)" + w).Match(data) }), data
		}
		missing, data := lacks()
		// The process has no memory to tell about for a moment, between one program and the next.
		for end := time.Now().Add(10 * time.Second); len(missing) > 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			missing, data = lacks()
		}
		if len(missing) > 0 {
			t.Errorf("%s lacks %q:\n%s", file, missing, data)
		}
	}
}

// TestAttributes reads back from the kernel what a process was asked to be, of the container's first process and of one that came later.
func TestAttributes(t *testing.T) {
	l := newLab(t)
	b := l.bundle("exec sleep 100")
	attributes(b.Spec.Process)
	b.Spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	b.Spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{
		Mode: specs.MpolBind, Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes},
	}
	if err := spec.Validate(b.Spec); err != nil {
		t.Fatal(err)
	}
	c := l.create("attributes", b)
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	checkAttributes(t, c.State().Pid)
	p := *b.Spec.Process
	p.Args = []string{"sleep", "100"}
	process, err := c.Exec(l.ctx, ExecOptions{Process: &p})
	if err != nil {
		t.Fatal(err)
	}
	l.reap(process)
	checkAttributes(t, process.Pid)
}

// reap ends a process with the test.
func (l *lab) reap(p *Process) {
	l.t.Cleanup(func() {
		_ = unix.Kill(p.Pid, unix.SIGKILL)
		_, _ = p.Wait(context.Background())
	})
}

// TestScheduler tries the policies that take parameters.
func TestScheduler(t *testing.T) {
	l := newLab(t)
	for _, s := range []specs.Scheduler{
		{Policy: specs.SchedFIFO, Priority: 3, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}},
		{Policy: specs.SchedRR, Priority: 2},
		{Policy: specs.SchedIdle},
		{Policy: specs.SchedOther, Nice: -5},
		{Policy: specs.SchedDeadline, Runtime: 42000, Deadline: 100000, Period: 1000000, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}},
	} {
		t.Run(string(s.Policy), func(t *testing.T) {
			l := &lab{t: t, runtime: l.runtime, ctx: l.ctx}
			b := l.bundle("exec sleep 100")
			b.Spec.Process.Args = []string{"sleep", "100"} // a process under SCHED_DEADLINE can't fork
			b.Spec.Process.Scheduler = &s
			b.Spec.Linux.CgroupsPath = fmt.Sprintf("/zap-test-%d", os.Getpid())                      // real-time is only for groups whose parents have some
			if cgroup.Mode() != "v2" && (s.Policy == specs.SchedFIFO || s.Policy == specs.SchedRR) { // v2 doesn't divide real-time
				runtime := int64(1000)
				b.Spec.Linux.Resources.CPU = &specs.LinuxCPU{RealtimeRuntime: &runtime}
			}
			c := l.create("scheduler", b)
			got, err := unix.SchedGetAttr(c.State().Pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			policies := map[specs.LinuxSchedulerPolicy]uint32{
				specs.SchedOther: unix.SCHED_NORMAL, specs.SchedFIFO: unix.SCHED_FIFO, specs.SchedRR: unix.SCHED_RR,
				specs.SchedIdle: unix.SCHED_IDLE, specs.SchedDeadline: unix.SCHED_DEADLINE,
			}
			if got.Policy != policies[s.Policy] || got.Priority != uint32(s.Priority) || got.Nice != s.Nice || got.Flags != uint64(len(s.Flags)) {
				t.Errorf("got %+v", got)
			}
			if s.Policy == specs.SchedDeadline && (got.Runtime != s.Runtime || got.Deadline != s.Deadline || got.Period != s.Period) {
				t.Errorf("got %+v", got)
			}
		})
	}
	t.Run("with cpus", func(t *testing.T) {
		if goruntime.NumCPU() == 1 {
			t.Skip("needs two CPUs: all of them are allowed")
		}
		l := &lab{t: t, runtime: l.runtime, ctx: l.ctx}
		b := l.bundle("true")
		b.Spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 42000, Deadline: 100000, Period: 1000000}
		b.Spec.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "0"}
		_, err := l.runtime.Create(l.ctx, "scheduler", b, CreateOptions{})
		want := "set scheduler SCHED_DEADLINE: operation not permitted (config.json: process.scheduler); " +
			"process scheduler can't be used together with AllowedCPUs"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	})
}

// TestAffinity binds the runtime to a CPU, which the container must not inherit, and asks for one in an exec.
func TestAffinity(t *testing.T) {
	l := newLab(t)
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	if all.Count() < 2 || !all.IsSet(0) || !all.IsSet(1) {
		t.Skip("needs two CPUs")
	}
	one := unix.CPUSet{}
	one.Set(1)
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	set := func(cpus *unix.CPUSet) {
		for _, e := range entries {
			var tid int
			if _, err := fmt.Sscan(e.Name(), &tid); err == nil {
				_ = unix.SchedSetaffinity(tid, cpus)
			}
		}
	}
	set(&one)
	defer set(&all)
	c := l.create("affinity", l.bundle("exec sleep 100"))
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	cpus := func(pid int) string {
		var got unix.CPUSet
		if err := unix.SchedGetaffinity(pid, &got); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(got.Count(), got.IsSet(0), got.IsSet(1))
	}
	if got, want := cpus(c.State().Pid), fmt.Sprint(all.Count(), true, true); got != want {
		t.Errorf("container: %s, want %s", got, want)
	}
	for _, test := range []struct{ initial, final, want string }{
		{"", "", fmt.Sprint(all.Count(), true, true)},
		{"1", "0", "1 true false"},
		{"0-1", "1", "1 false true"},
	} {
		p := *c.State().Bundle.Spec.Process
		p.Args = []string{"sleep", "100"}
		p.ExecCPUAffinity = &specs.CPUAffinity{Initial: test.initial, Final: test.final}
		process, err := c.Exec(l.ctx, ExecOptions{Process: &p})
		if err != nil {
			t.Fatal(err)
		}
		l.reap(process)
		if got := cpus(process.Pid); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
	p := *c.State().Bundle.Spec.Process
	p.ExecCPUAffinity = &specs.CPUAffinity{Initial: "8000"}
	_, err = c.Exec(l.ctx, ExecOptions{Process: &p})
	if want := "set CPU affinity 8000: invalid argument (process: process.execCPUAffinity.initial)"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestCapabilityWarning wants a container with a capability from the future to run, and a word about it.
func TestCapabilityWarning(t *testing.T) {
	l := newLab(t)
	var log bytes.Buffer
	l.runtime.log = slog.New(slog.NewTextHandler(&log, nil))
	b := l.bundle("grep CapBnd /proc/self/status")
	b.Spec.Process.Capabilities.Bounding = []string{"CAP_FUTURE"}
	if err := spec.Validate(b.Spec); err != nil {
		t.Fatal(err)
	}
	if out, code := l.run(b); code != 0 || out != "CapBnd:\t0000000000000000\n" {
		t.Errorf("%q, %d", out, code)
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "capabilities=CAP_FUTURE") {
		t.Errorf("log %q", log.String())
	}
}
