package e2e

import (
	"strings"
	"testing"
	"time"
)

// TestDrain moves all pods of a host at once: one that can't be moved stays and is named, containers of the OCI verbs and pods that have
// ended are left alone.
func TestDrain(t *testing.T) {
	tr := newTrip(t)
	if got := tr.alpha.Drain(t, tr.beta); len(got) != 0 {
		t.Errorf("a host without pods was drained of %v", got)
	}
	rootfs := ShellRootfs(t)
	name := func(n string) string { return tr.PodName(n) }
	for i, n := range []string{"one", "two", "held"} {
		tr.alpha.RunPod(t, Pod{Name: name(n), Number: byte(60 + i), Rootfs: rootfs, Args: []string{"/bin/sh", "-c", "while :; do sleep 1; done"}})
	}
	tr.alpha.RunPod(t, Pod{Name: name("ended"), Number: 63, Rootfs: rootfs, Args: []string{"/bin/true"}})
	WaitFor(t, 20*time.Second, "the pod to end", func() bool { return podStatus(t, tr.alpha, name("ended")) == "stopped" })

	// A session of somebody's outside stands against a move.
	background(t, tr.alpha.NetNS, Binary(t), "--root", tr.alpha.Root, "pod", "exec", name("held"), "sleep", "7781")
	WaitFor(t, 20*time.Second, "the session", func() bool {
		return strings.Contains(tr.alpha.Exec(t, name("held"), "sh", "-c", "cat /proc/[0-9]*/cmdline"), "7781")
	})
	m := tr.alpha.StartDrain(t, tr.beta, MoveOptions{Args: []string{"--parallel", "2"}})
	if r := m.Wait(); r.Code != 3 || m.Final.Result != "left" || !strings.Contains(r.Stderr, "1 of 3 pods stay: "+name("held")+": ") {
		t.Errorf("the drain ended with %v", r)
	}
	for _, n := range []string{"one", "two"} {
		tr.wantOnlyOn(t, tr.beta, name(n))
	}
	tr.wantOnlyOn(t, tr.alpha, name("held"))
	tr.alpha.Exec(t, name("held"), "killall", "sleep")
	WaitFor(t, 20*time.Second, "the session's end", func() bool {
		return !strings.Contains(tr.alpha.Exec(t, name("held"), "sh", "-c", "cat /proc/[0-9]*/cmdline"), "7781")
	})

	if got := tr.alpha.Drain(t, tr.beta); len(got) != 1 || got[name("held")].PauseMS <= 0 || got[name("held")].Bytes <= 0 {
		t.Errorf("the second drain moved %v", got)
	}
	tr.wantOnlyOn(t, tr.beta, name("held"))
	if got := podStatus(t, tr.alpha, name("ended")); got != "stopped" {
		t.Errorf("the pod that had ended is %q", got)
	}
	tr.alpha.Zap(t, "pod", "rm", name("ended"))
	tr.wantNothingLeft(t, tr.alpha)
	for _, n := range []string{"one", "two", "held"} {
		tr.beta.Zap(t, "pod", "rm", "--force", name(n))
	}
	tr.wantNothingLeft(t, tr.beta)
}
