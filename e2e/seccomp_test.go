package e2e

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// filtered gives a container podman's default seccomp profile.
func filtered(t *testing.T, s *specs.Spec) {
	t.Helper()
	profile, err := EngineProfile(s.Process.Capabilities.Bounding)
	if err != nil {
		t.Skipf("needs podman's profile (make deps): %v", err)
	}
	s.Linux.Seccomp = profile
}

// TestContainerSeccomp moves a redis under podman's default seccomp profile to beta and back, while a client counts. The filter does its work
// on both hosts, for the first process and for one that joins.
func TestContainerSeccomp(t *testing.T) {
	tr := newTrip(t)
	engine, p := tr.engineNetwork(t, tr.alpha, 62)
	c := tr.newContainer(t, "filtered", RedisRootfs(t), RedisArgs(), func(s *specs.Spec) {
		joinNetwork(s, engine.Path())
		filtered(t, s)
	})
	c.start()
	counter := NewCounter(t, tr.client, p.Addr(6379), "n", time.Millisecond)
	counter.WantProgress(t)
	filter := func(h *Host) string {
		r := h.Try("grep", "Seccomp", "/proc/"+strconv.Itoa(c.state(h).Pid)+"/status")
		return r.Stdout
	}
	before := filter(tr.alpha)
	if !strings.Contains(before, "Seccomp:\t2\nSeccomp_filters:\t1\n") {
		t.Errorf("the first process has %q", before)
	}
	for _, hop := range [][2]*Host{{tr.alpha, tr.beta}, {tr.beta, tr.alpha}} {
		hop[0].Migrate(t, c.name, hop[1])
		counter.WantProgress(t)
		if after := filter(hop[1]); after != before {
			t.Errorf("the first process has %q on %s, had %q", after, hop[1].Name, before)
		}
		tr.wantNothingLeft(t, hop[0])
	}
	if r := counter.Stop(); r.Err != nil {
		t.Errorf("after %d replies: %v", r.Count, r.Err)
	}
	c.end(tr.alpha)
}

// TestContainerSeccompRefuses wants the filter to refuse the same on the host that a container has moved to.
func TestContainerSeccompRefuses(t *testing.T) {
	tr := newTrip(t)
	script := "while sleep 0.1; do hostname refused 2> /dev/shm/refused; done" // by children of the process that has moved
	c := tr.newContainer(t, "refused", busyboxRootfs(t), []string{"sh", "-c", script}, func(s *specs.Spec) {
		filtered(t, s)
		refuse := specs.LinuxSyscall{Names: []string{"sethostname"}, Action: specs.ActErrno, ErrnoRet: new(uint(100))}
		s.Linux.Seccomp.Syscalls = append([]specs.LinuxSyscall{refuse}, s.Linux.Seccomp.Syscalls...)
	})
	c.start()
	const said, refused = "cat /dev/shm/refused 2>&1 || true", "hostname: sethostname: Network is down"
	WaitFor(t, 10*time.Second, "the first refusal", func() bool { return c.exec(tr.alpha, said) == refused })
	c.move(tr.alpha, tr.beta)
	c.exec(tr.beta, "rm /dev/shm/refused")
	WaitFor(t, 10*time.Second, "a refusal on beta", func() bool { return c.exec(tr.beta, said) == refused })
	c.want(tr.beta, map[string]string{"hostname refused 2>&1 || true": refused}) // by a process that joins
	c.end(tr.beta)
}

// TestContainerSupervised wants a container whose system calls a supervisor answers to be told apart before anything is frozen.
func TestContainerSupervised(t *testing.T) {
	tr := newTrip(t)
	path := tr.Path("agent")
	agent, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	listeners := make(chan *os.File, 1)
	go func() { listeners <- receiveFile(t, agent) }()
	c := tr.newContainer(t, "supervised", busyboxRootfs(t), []string{"sleep", "7777"}, func(s *specs.Spec) {
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, ListenerPath: path,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"sethostname"}, Action: specs.ActNotify}},
		}
	})
	c.start()
	if f := <-listeners; f != nil {
		defer f.Close()
	}
	r := tr.alpha.TryZap(t, "migrate", "--tls", tr.alpha.TLS, "--check", c.name, tr.beta.Peer())
	if want := "seccomp-listener " + c.name + ": a supervisor outside answers system calls of it"; r.Code != 3 || !strings.Contains(r.Stderr, want) {
		t.Errorf("the check ends with code %d and does not say %q: %s", r.Code, want, r.Stderr)
	}
	tr.alpha.Zap(t, "delete", "--force", c.name)
	tr.wantNothingLeft(t, tr.alpha)
}
