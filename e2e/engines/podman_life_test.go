package engines

import (
	"strings"
	"testing"
	"time"
)

// TestPodmanLife takes a container through all that is done to one from outside.
func TestPodmanLife(t *testing.T) {
	e := newPodman(t)
	id := e.do("run", "-d", "--name", "life", image, "sh", "-c", `trap 'echo got TERM; exit 7' TERM; trap 'echo got HUP' HUP; echo up; while :; do sleep 0.1; done`)
	e.want(id, "ps", "-q", "--no-trunc", "--filter", "name=life")
	waitFor(t, "the first line", func() bool { return strings.Contains(e.do("logs", "life"), "up") })
	e.want("running", "inspect", "--format", "{{.State.Status}}", "life")

	e.want("hi 1", "exec", "-e", "WORD=hi", "life", "sh", "-c", "echo $WORD $(cat /proc/1/comm | grep -c sh)")
	e.want("/etc\n1000\n1000 2000", "exec", "-w", "/etc", "--user", "user", "life", "sh", "-c", "pwd; id -u; id -G")
	e.wantCode(5, "exec", "life", "sh", "-c", "exit 5")
	e.wantCode(127, "exec", "life", "nothing-there")
	e.wantCode(126, "exec", "life", "/etc/passwd")
	if r := runWith("typed\n", "podman", "--runtime", runtimeName, "exec", "-i", "life", "cat"); r.Stdout != "typed\n" {
		t.Errorf("standard input does not arrive: %v", r)
	}
	e.do("exec", "-d", "life", "sh", "-c", "echo detached > /tmp/made; sleep 7777")
	waitFor(t, "the detached program", func() bool { return e.try("exec", "life", "cat", "/tmp/made").Stdout == "detached\n" })
	e.want(must(t, "grep", "CapEff", "/proc/self/status"), "exec", "--privileged", "life", "grep", "CapEff", "/proc/self/status")
	if top := e.do("top", "life", "pid", "comm"); !strings.Contains(top, "sh") || strings.Count(top, "\n") < 2 {
		t.Errorf("podman top shows %q", top)
	}

	e.do("kill", "-s", "HUP", "life")
	waitFor(t, "the signal", func() bool { return strings.Contains(e.do("logs", "life"), "got HUP") })
	e.do("pause", "life")
	e.want("paused", "inspect", "--format", "{{.State.Status}}", "life")
	if r := e.try("exec", "life", "true"); r.Code == 0 {
		t.Errorf("a paused container runs a program: %v", r)
	}
	e.do("unpause", "life")
	e.want("running", "inspect", "--format", "{{.State.Status}}", "life")
	e.want("back", "exec", "life", "echo", "back")

	e.do("stop", "-t", "20", "life")
	e.want("exited 7", "inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "life")
	e.want("7", "wait", "life")
	e.want("up\ngot HUP\ngot TERM", "logs", "life")
	e.do("start", "life")
	e.do("restart", "-t", "0", "life")
	e.want("running", "inspect", "--format", "{{.State.Status}}", "life")
	e.do("kill", "life")
	e.want("137", "wait", "life")
	e.do("rm", "life")
	e.wantCode(1, "container", "exists", "life")
}

// TestPodmanEnds ends containers in the ways that need the runtime.
func TestPodmanEnds(t *testing.T) {
	e := newPodman(t)
	e.do("run", "-d", "--name", "deaf", image, "sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
	start := time.Now()
	e.do("stop", "-t", "1", "deaf")
	if took := time.Since(start); took < time.Second {
		t.Errorf("a container that ignores TERM got %v to end", took)
	}
	e.want("137", "inspect", "--format", "{{.State.ExitCode}}", "deaf")
	e.do("run", "-d", "--name", "forced", image, "sh", "-c", "sleep 7777 & sleep 7777")
	e.do("rm", "-f", "-t", "0", "forced")
	e.do("create", "--name", "never", image, "true")
	e.do("rm", "never")
	e.do("create", "--name", "initialised", image, "true")
	e.do("init", "initialised") // created by zap, not started
	e.want("initialized", "inspect", "--format", "{{.State.Status}}", "initialised")
	e.do("start", "--attach", "initialised")
	e.do("create", "--name", "initialised", "--replace", image, "true")
}

// TestPodmanHealthcheck runs the check of a container by hand.
func TestPodmanHealthcheck(t *testing.T) {
	e := newPodman(t)
	e.do("run", "-d", "--name", "checked", "--health-cmd", "test -e /healthy", "--health-interval", "disable", "--health-retries", "1", image, "sleep", "7777")
	e.wantCode(1, "healthcheck", "run", "checked")
	e.want("unhealthy", "inspect", "--format", "{{.State.Health.Status}}", "checked")
	e.do("exec", "checked", "touch", "/healthy")
	e.wantCode(0, "healthcheck", "run", "checked")
	e.want("healthy", "inspect", "--format", "{{.State.Health.Status}}", "checked")
}

// TestPodmanPods runs containers in a pod: they share the namespaces of a container that only sleeps.
func TestPodmanPods(t *testing.T) {
	e := newPodman(t)
	e.do("pod", "create", "--name", "pair", "--hostname", "pairhost")
	e.do("run", "-d", "--pod", "pair", "--name", "server", image, "sh", "-c", "while :; do echo served | nc -l -p 4000; done")
	waitFor(t, "an answer in the pod", func() bool {
		return e.try("run", "--rm", "--pod", "pair", image, "nc", "-w", "2", "127.0.0.1", "4000").Stdout == "served\n"
	})
	e.want("pairhost", "run", "--rm", "--pod", "pair", image, "hostname")
	e.want("same", "run", "--rm", "--pod", "pair", "--pid", "container:server", image, "sh", "-c", "grep -q nc /proc/1/cmdline && echo same")
	e.want("Running", "pod", "inspect", "--format", "{{.State}}", "pair")
	e.do("pod", "pause", "pair")
	e.want("paused", "inspect", "--format", "{{.State.Status}}", "server")
	e.do("pod", "unpause", "pair")
	e.do("pod", "stop", "-t", "0", "pair")
	e.want("exited", "inspect", "--format", "{{.State.Status}}", "server")
	e.do("pod", "start", "pair")
	e.want("running", "inspect", "--format", "{{.State.Status}}", "server")
	e.do("pod", "restart", "pair")
	e.want("running", "inspect", "--format", "{{.State.Status}}", "server")
	e.do("pod", "kill", "pair")
	e.do("pod", "rm", "-f", "pair")

	e.do("pod", "create", "--name", "shared", "--share", "net,ipc,uts,pid", "--infra-name", "infra")
	e.want("catatonit", "run", "--rm", "--pod", "shared", image, "cat", "/proc/1/comm")
	e.do("pod", "rm", "-f", "-t", "0", "shared")
}
