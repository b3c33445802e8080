package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// background starts a command in a namespace that lives until the lab is closed.
func background(t *testing.T, n NetNS, argv ...string) int {
	t.Helper()
	cmd := enter(context.Background(), n, argv...)
	if err := processes.start(cmd); err != nil {
		t.Fatal(err)
	}
	go processes.wait(cmd)
	return cmd.Process.Pid
}

// TestLab shows that the laboratory itself can be trusted: a cut link is cut, and what is left behind is found.
func TestLab(t *testing.T) {
	l := NewLab(t)
	alpha, beta, client := l.Host("alpha"), l.Host("beta"), l.NewClient()
	root := RedisRootfs(t)
	before, other := alpha.Inventory(t), beta.Inventory(t)

	server := background(t, alpha.NetNS, filepath.Join(root, RedisArgs()[0]), "--bind", "*", "--protected-mode", "no", "--save", "", "--port", "6379")
	counter := NewCounter(t, client, alpha.Addr.String()+":6379", "n", time.Millisecond)
	counter.WantProgress(t)

	l.CutLink(alpha)
	if _, err := client.Dial(alpha.Addr.String()+":6379", time.Second); err == nil {
		t.Error("a connection came through a link that is cut")
	}
	l.RestoreLink(alpha)
	counter.WantProgress(t)
	if r := counter.Stop(); r.Err != nil || r.Count < 4 || r.Worst.Took == 0 || r.Retransmits == 0 {
		t.Errorf("the counter says %d replies, worst %v, %d retransmits, %v", r.Count, r.Worst.Took, r.Retransmits, r.Err)
	}

	for _, argv := range [][]string{
		{"ip", "link", "add", "left0", "type", "veth", "peer", "name", "left1"},
		{"nft", "add", "table", "inet", "left"},
		{"sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 </dev/null &"},
		{"touch", filepath.Join(alpha.Root, "left")},
	} {
		if r := alpha.Try(argv[0], argv[1:]...); r.Err != nil {
			t.Fatal(r)
		}
	}
	found := strings.Join(Diff(before, alpha.Inventory(t)), "\n")
	for _, want := range []string{"+ process: ", "redis-server", "+ process: sleep 1000", "+ link: left0", "+ nft: table inet left", "+ file: left"} {
		if !strings.Contains(found, want) {
			t.Errorf("the inventory doesn't show %q:\n%s", want, found)
		}
	}
	beta.WantSame(t, other)

	for _, p := range mustDescendants(t) {
		if p.Pid == server || p.Args == "sleep 1000" {
			if err := signalProcess(p, 9); err != nil {
				t.Error(err)
			}
		}
	}
	for _, argv := range [][]string{{"ip", "link", "del", "left0"}, {"nft", "delete", "table", "inet", "left"}} {
		if r := alpha.Try(argv[0], argv[1:]...); r.Err != nil {
			t.Fatal(r)
		}
	}
	if err := os.Remove(filepath.Join(alpha.Root, "left")); err != nil {
		t.Fatal(err)
	}
	alpha.WantSame(t, before)
}

func mustDescendants(t *testing.T) []Process {
	t.Helper()
	all, err := descendants()
	if err != nil {
		t.Fatal(err)
	}
	return all
}
