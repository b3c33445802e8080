package e2e

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// typist is who sits at a terminal: it types, and waits for what it wants to see.
type typist struct {
	t *testing.T

	mu   sync.Mutex
	to   io.Writer
	from io.Reader
	seen strings.Builder // on every screen so far
	err  error
}

func newTypist(t *testing.T, to io.Writer, from io.Reader) *typist {
	ty := &typist{t: t}
	ty.sit(to, from)
	return ty
}

// sit changes to another keyboard and screen.
func (ty *typist) sit(to io.Writer, from io.Reader) {
	ty.mu.Lock()
	ty.to, ty.from, ty.err = to, from, nil
	ty.mu.Unlock()
	go ty.watch(from)
}

func (ty *typist) watch(from io.Reader) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		ty.mu.Lock()
		ty.seen.Write(buf[:n])
		if err != nil && ty.from == from {
			ty.err = err
		}
		ty.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// do types keys and waits until the screen shows what is wanted, which the keys themselves must not contain.
func (ty *typist) do(keys, want string) {
	ty.t.Helper()
	ty.mu.Lock()
	from, to := ty.seen.Len(), ty.to
	ty.mu.Unlock()
	if _, err := io.WriteString(to, keys); err != nil {
		ty.t.Fatalf("type %q: %v", keys, err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		ty.mu.Lock()
		said, err := ty.seen.String()[from:], ty.err
		ty.mu.Unlock()
		if strings.Contains(said, want) {
			return
		}
		if err != nil || time.Now().After(deadline) {
			ty.t.Fatalf("typed %q and wanted %q, the screen shows %q (%v)", keys, want, said, err)
		}
	}
}

// settle waits until the screen stands still, as a person does before typing on.
func (ty *typist) settle() {
	last := -1
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(150 * time.Millisecond) {
		ty.mu.Lock()
		now := ty.seen.Len()
		ty.mu.Unlock()
		if now == last {
			return
		}
		last = now
	}
}

// useShell is what is done at a shell, with a move in the middle of everything.
func useShell(ty *typist, move func()) {
	ty.t.Helper()
	ty.do("echo one$((1+1))three\r", "one2three")
	ty.do("sleep 7777 &\r", "[1] ")
	ty.do("(seq 1 300000; sleep 2; seq 300001 600000) | (sleep 3; cat) | md5sum > /tmp/sum & echo back$((40+2))\r", "back42")
	ty.do("trap 'echo hang''up' HUP; echo set$((6*7))\r", "set42")
	ty.do("vi /tmp/poem\r", "poem")
	ty.settle()
	ty.do("iA terminal\rthat moves", "that moves")
	ty.settle()

	move()

	ty.do("\ron the way\x1b", "on the way")
	ty.settle()
	ty.do(":wq\r", "ready$")
	ty.do("cat /tmp/poem; echo end$((1+1))\r", "A terminal\r\nthat moves\r\non the way\r\nend2")
	ty.do("jobs; echo listed$((1+1))\r", "sleep 7777")
	ty.do("history; echo told$((1+1))\r", "echo one$((1+1))three")
	ty.do("\x1b[A\r", "told2") // the line before, by the arrow
	ty.do("kill -HUP $$; echo sent$((1+1))\r", "hangup")
	ty.do("wait %2; cat /tmp/sum; seq 1 600000 | md5sum; echo sum$((1+1))\r", "sum2")
	ty.do("cmp <(cat /tmp/sum) <(seq 1 600000 | md5sum) && echo same$((1+1))\r", "same2")
	ty.do("fg %1\r", "sleep 7777")
	ty.settle()
	ty.do("\x1a", "Stopped")
	ty.do("jobs; echo again$((1+1))\r", "Stopped")
	ty.do("kill -9 %1; stty size; echo size$((1+1))\r", "size2")
}

// TestTerminal moves a shell on a pseudo terminal both ends of which are in the pod, as an sshd's are, with vi in the
// foreground and a pipeline in the background. The keys come over TCP.
func TestTerminal(t *testing.T) {
	tr := newTrip(t)
	pod := Pod{Name: tr.PodName("sshd"), Rootfs: ShellRootfs(t), Number: 54, Args: []string{"/bin/survivor", "terminal"}}
	tr.alpha.RunPod(t, pod)
	conn, err := tr.client.Dial(pod.Addr(7001), 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ty := newTypist(t, conn, conn)
	ty.do("", "ready$")
	useShell(ty, func() { tr.alpha.Migrate(t, pod.Name, tr.beta) })
	ty.do("stty size\r", "30 90")
	tr.wantNothingLeft(t, tr.alpha)
	tr.beta.Zap(t, "pod", "rm", "--force", pod.Name)
	tr.wantNothingLeft(t, tr.beta)
}

// TestPodTerminal moves a pod whose own standard streams are a terminal, which the hosts keep for it. Who sits at it leaves
// on the one host and comes back on the other.
func TestPodTerminal(t *testing.T) {
	tr := newTrip(t)
	pod := Pod{Name: tr.PodName("bash"), Rootfs: ShellRootfs(t), Number: 55, Args: []string{"/bin/bash", "--norc", "-i"}}
	pod.Flags = []string{"--tty", "--env", "TERM=xterm", "--env", "PS1=ready$ ", "--env", "HOME=/root"}
	tr.alpha.RunPod(t, pod)
	ty := &typist{t: t}
	ty.sit(attach(t, tr.alpha, pod.Name))
	ty.do("\r", "ready$")
	useShell(ty, func() {
		tr.alpha.Migrate(t, pod.Name, tr.beta)
		ty.sit(attach(t, tr.beta, pod.Name))
	})
	tr.wantNothingLeft(t, tr.alpha)
	tr.beta.Zap(t, "pod", "rm", "--force", pod.Name)
}

// attach sits down at a pod's terminal.
func attach(t *testing.T, h *Host, pod string) (keys io.Writer, screen io.Reader) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := h.Command(ctx, Binary(t), h.zapArgs("pod", "attach", pod)...)
	keys, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = in, in
	err = processes.start(cmd)
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		processes.wait(cmd)
		out.Close()
	})
	return keys, out
}

// TestStreams moves a pod that writes and reads pipes: its log has every line once and in order, on the host where it is, and
// who follows it is told where the pod went.
func TestStreams(t *testing.T) {
	tr := newTrip(t)
	script := `i=0; while i=$((i+1)); do echo line $i; [ $((i % 7)) = 0 ] && echo seven $i >&2; sleep 0.02; done`
	pod := Pod{Name: tr.PodName("talk"), Rootfs: ShellRootfs(t), Number: 56, Args: []string{"/bin/sh", "-c", script}}
	tr.alpha.RunPod(t, pod)
	logged := func(h *Host) string { return h.Zap(t, "pod", "logs", pod.Name) }
	WaitFor(t, 30*time.Second, "ten lines", func() bool { return strings.Contains(logged(tr.alpha), "line 10\n") })
	tr.alpha.Migrate(t, pod.Name, tr.beta, "--keep-source-log")
	first := logged(tr.beta)
	WaitFor(t, 30*time.Second, "more lines", func() bool { return len(logged(tr.beta)) > len(first)+100 })

	wantLines(t, "the pod's log", logged(tr.beta))
	kept, _ := filepath.Glob(filepath.Join(tr.alpha.Root, "*", "*log*"))
	more, _ := filepath.Glob(filepath.Join(tr.alpha.Root, "*log*"))
	if kept = append(kept, more...); len(kept) == 0 {
		t.Error("the source kept no log although it was told to")
	}
	tr.beta.Zap(t, "pod", "rm", "--force", pod.Name)
	tr.wantNothingLeft(t, tr.beta)
}

// wantLines wants "line N" for every N from 1 on, each once and in order.
func wantLines(t *testing.T, what, text string) {
	t.Helper()
	n := 0
	for line := range strings.Lines(text) {
		if number, ok := strings.CutPrefix(strings.TrimSpace(line), "line "); ok {
			if n++; number != itoa(n) {
				t.Fatalf("%s has line %s in the place of %d", what, number, n)
			}
		}
	}
	if n < 10 {
		t.Errorf("%s has %d lines", what, n)
	}
}
