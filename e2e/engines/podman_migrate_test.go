package engines

import (
	"bufio"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// target is another zap on the same machine that takes containers in.
type target struct {
	t    *testing.T
	root string
	keys string
}

const targetAddress = "127.0.0.1:7800"

func newTarget(t *testing.T) *target {
	t.Helper()
	dir := t.TempDir()
	must(t, "zap", "keys", "init", dir, "a", "b")
	g := &target{t, dir + "/target", dir}
	serve := exec.Command("zap", "--root", g.root, "serve", "--listen", targetAddress, "--tls", dir+"/b")
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, id := range strings.Fields(must(t, "zap", "--root", g.root, "list", "-q")) {
			must(t, "zap", "--root", g.root, "pod", "rm", "--force", id)
		}
		_ = serve.Process.Kill()
		_ = serve.Wait()
	})
	waitFor(t, "zap serve", func() bool {
		conn, err := net.DialTimeout("tcp", targetAddress, time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return g
}

// migrate moves a container there.
func (g *target) migrate(flags ...string) result {
	return run(append(append([]string{"zap", "migrate", "--tls", g.keys + "/a"}, flags...), targetAddress)...)
}

// TestPodmanMigrate moves containers that podman runs, while they run, to another zap. Podman sees them killed.
func TestPodmanMigrate(t *testing.T) {
	e := newPodman(t)
	g := newTarget(t)
	id := e.do("run", "-d", "--network", "none", "--name", "alone", image, "sh", "-c", counting)
	waitFor(t, "some numbers", func() bool { return e.count("alone") > 5 })
	if r := g.migrate("--check", id); r.Code != 0 || !strings.Contains(r.Stdout, "can move") {
		t.Errorf("the check: %v", r)
	}
	if r := g.migrate(id); r.Code != 0 {
		t.Fatal(r)
	}
	there := func() string { return run("zap", "--root", g.root, "pod", "logs", id).Stdout }
	waitFor(t, "more numbers", func() bool { return strings.Count(there(), "\n") > 3 })
	e.want("137", "wait", "alone")
	said := strings.Fields(e.do("logs", "alone") + "\n" + there())
	for i, word := range said {
		if word != fmt.Sprint(i+1) {
			t.Fatalf("podman's log and then that of the target are not consecutive: %q", said[max(0, i-5):i+1])
		}
	}
}

// TestPodmanMigrateConnection moves a container with a connection through podman's bridge.
func TestPodmanMigrateConnection(t *testing.T) {
	e := newPodman(t)
	g := newTarget(t)
	id := e.do("run", "-d", "--name", "server", image, "sh", "-c", "nc -l -p 4000 -e sh -c 'while read word; do echo got $word; done'")
	address := e.do("inspect", "--format", "{{.NetworkSettings.IPAddress}}", "server") + ":4000"
	var conn net.Conn
	waitFor(t, "the server", func() (is bool) {
		var err error
		conn, err = net.DialTimeout("tcp", address, time.Second)
		return err == nil
	})
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(commandTimeout))
	lines := bufio.NewReader(conn)
	talk := func(word string) {
		t.Helper()
		fmt.Fprintln(conn, word)
		if line, err := lines.ReadString('\n'); line != "got "+word+"\n" {
			t.Fatalf("the server answers %q (%v)", line, err)
		}
	}
	talk("before")
	if r := g.migrate(id); r.Code != 0 {
		t.Fatal(r)
	}
	talk("after")
	e.want("137", "wait", "server")
	talk("later")
}

// TestPodmanMigrateBlocked asks about containers that can't be moved: the answer says why in plain words.
func TestPodmanMigrateBlocked(t *testing.T) {
	e := newPodman(t)
	g := newTarget(t)
	for _, c := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--network", "host"}, "it uses the host's network"},
		{[]string{"--pid", "host"}, "it uses the host's process ids"},
		{[]string{"--uidmap", "0:200000:5000", "--network", "none"}, "it has a user namespace"},
	} {
		id := e.do(append(append([]string{"run", "-d"}, c.flags...), image, "sleep", "7777")...)
		r := g.migrate("--check", id)
		if r.Code != 3 || !strings.Contains(r.Stdout+r.Stderr, c.want) {
			t.Errorf("%s: %v", c.flags, r)
		}
	}
}
