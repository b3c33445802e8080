package e2e

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// TestSurvivor moves a pod that holds one of everything a process can hold, and asks it what broke.
func TestSurvivor(t *testing.T) {
	tr := newTrip(t)
	survive(t, tr, Pod{Name: tr.PodName("survivor"), Rootfs: ShellRootfs(t), Number: 53, Args: []string{"/bin/survivor"}})
}

// survive moves a survivor there, with its memory sent ahead, and back, without, and asks it before and after.
func survive(t *testing.T, tr *trip, pod Pod) {
	t.Helper()
	tr.alpha.RunPod(t, pod)
	conn, err := tr.client.Dial(pod.Addr(7000), 30*time.Second)
	if err != nil {
		t.Fatalf("%v; the survivor says: %s", err, tr.alpha.TryZap(t, "pod", "logs", pod.Name))
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	wantWhole(t, conn, in, "before the move")
	for i, hop := range []struct{ from, to *Host }{{tr.alpha, tr.beta}, {tr.beta, tr.alpha}} {
		hop.from.Migrate(t, pod.Name, hop.to, "--mode", []string{"pre", "stop"}[i])
		wantWhole(t, conn, in, fmt.Sprintf("after move %d", i+1))
		wantWhole(t, conn, in, fmt.Sprintf("after move %d, asked again", i+1))
		tr.wantNothingLeft(t, hop.from)
	}
	said := tr.alpha.Zap(t, "pod", "logs", pod.Name)
	if want := 5; strings.Count(said, "survivor: checked") != want || strings.Count(said, "survivor: ready") != 1 {
		t.Errorf("the log doesn't have all %d checks:%s", want, lines(said))
	}
	conn.Close()
	tr.alpha.Zap(t, "pod", "rm", "--force", pod.Name)
	tr.wantNothingLeft(t, tr.alpha)
	tr.wantNothingLeft(t, tr.beta)
}

// wantWhole asks the survivor and reports every line of its answer but ok.
func wantWhole(t *testing.T, conn net.Conn, in *bufio.Reader, when string) {
	t.Helper()
	conn.SetDeadline(time.Now().Add(5 * time.Minute))
	if _, err := fmt.Fprintln(conn, "check"); err != nil {
		t.Fatalf("%s: ask survivor: %v", when, err)
	}
	for n := 0; ; n++ {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: ask survivor: %v", when, err)
		}
		line = strings.TrimSpace(line)
		if line == "" && n > 0 {
			return
		}
		if line != "ok" {
			t.Errorf("%s: %s", when, line)
		}
	}
}
