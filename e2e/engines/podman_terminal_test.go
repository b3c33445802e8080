package engines

import (
	"strings"
	"testing"
	"time"
)

// TestPodmanTerminal works at the terminal of a container: of one that podman runs, of a program it starts in one, and of one that it
// attaches to.
func TestPodmanTerminal(t *testing.T) {
	e := newPodman(t)
	s := newScreen(t, "podman", "--runtime", runtimeName, "run", "-it", "--name", "shell", "-e", "PS1=here$ ", image, "sh")
	s.waitFor(0, "here$")
	s.useShell()

	other := newScreen(t, "podman", "--runtime", runtimeName, "exec", "-it", "-e", "PS1=there$ ", "--user", "user", "shell", "sh")
	other.waitFor(0, "there$")
	other.do("id -un; echo $((3+4))\r", "user\r\n7")
	other.do("tty; echo tty$((1+1))\r", "/dev/pts/1\r\ntty2")
	other.do("stty size\r", "30 90\r\n")
	other.do("exit 9\r", "")
	other.wantEnd(9)

	s.do("\x10", "") // ctrl-p ctrl-q, as two keys
	time.Sleep(300 * time.Millisecond)
	s.do("\x11", "")
	s.wantEnd(0)
	e.want("running", "inspect", "--format", "{{.State.Status}}", "shell")
	s = newScreen(t, "podman", "--runtime", runtimeName, "attach", "shell")
	s.do("\r", "here$")
	s.useShell()
	s.do("exit 8\r", "")
	s.wantEnd(0)
	e.want("8", "wait", "shell")
	if logs := e.do("logs", "shell"); !strings.Contains(logs, "one2three") {
		t.Errorf("the log is %q", logs)
	}

	s = newScreen(t, "podman", "--runtime", runtimeName, "start", "-ai", "shell")
	s.do("\r", "here$")
	s.useShell()
	e.do("rm", "-f", "-t", "0", "shell")
	s.wantEnd(137)
}

// TestPodmanAttach takes part in the standard streams of a container without a terminal.
func TestPodmanAttach(t *testing.T) {
	e := newPodman(t)
	e.do("run", "-d", "-i", "--name", "streams", image, "sh", "-c", "while read word; do echo got $word; echo not $word >&2; done; exit 4")
	r := runWith("one\ntwo\n", "podman", "--runtime", runtimeName, "attach", "streams")
	if strings.TrimSpace(r.Stdout) != "got one\ngot two" || r.Stderr != "not one\nnot two\n" || r.Code != 0 {
		t.Errorf("attached: %v", r)
	}
	e.want("4", "wait", "streams")
}
