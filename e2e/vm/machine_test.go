package vm

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/e2e/vm/remote"
)

// TestMachine boots a machine, gives it files, cuts and slows its link, kills it and boots it again with what it had synced.
func TestMachine(t *testing.T) {
	l := NewLab(t, "alpha")
	k := l.Kernel(Stable)
	m := l.Boot(Spec{Name: "alpha", Kernel: k})
	if got := strings.TrimSpace(m.Command("uname", "-r")); got != k.Release {
		t.Errorf("the guest's kernel is %s, not %s", got, k.Release)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"one": "1", "two": "22"} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	m.Copy(dir, "/srv/copied")
	m.Copy(dir+"/two", "/srv/copied/three")
	if got := m.Command("sh", "-c", "cd /srv/copied && stat -c '%n %a %s' *"); got != "one 640 1\nthree 640 2\ntwo 640 2\n" {
		t.Errorf("what was copied is %q", got)
	}

	client := l.NewClient()
	// One connection, and not Dial, which tries again until the time is over: its last try may be under way then and count as lost.
	reaches := func(within time.Duration) bool {
		ctx, cancel := context.WithTimeout(context.Background(), within)
		defer cancel()
		conn, err := client.DialContext(ctx, "tcp", m.Addr.String()+":7")
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, unix.ECONNREFUSED) // by the guest's kernel: nothing listens there
	}
	l.SlowLink(m.Host, "10mbit")
	if !reaches(10 * time.Second) {
		t.Error("the client doesn't reach the machine")
	}
	l.SlowLink(m.Host, "")
	l.CutLink(m.Host)
	if reaches(3 * time.Second) {
		t.Error("the client reaches the machine although its link is cut")
	}
	if got := m.Command("echo", "still there"); got != "still there\n" {
		t.Errorf("with its link cut the machine says %q", got)
	}
	l.RestoreLink(m.Host)
	if !reaches(10 * time.Second) {
		t.Error("the client doesn't reach the machine any more")
	}

	m.Command("sh", "-c", "echo kept > /var/lib/zap/kept && sync /var/lib/zap/kept && echo gone > /run/gone")
	m.Kill()
	if code, err := m.Run(2*time.Second, remote.Request{Args: []string{"true"}}, remote.Streams{}); err == nil {
		t.Errorf("a command on a machine that is off ended with %d", code)
	}
	spec := m.Spec
	spec.Cgroup = "hybrid"
	m.Start(spec)
	if got := m.Command("sh", "-c", "cat /var/lib/zap/kept; ls /run/gone /srv/copied 2>/dev/null; ls -d /sys/fs/cgroup/unified"); got != "kept\n/sys/fs/cgroup/unified\n" {
		t.Errorf("after the crash there is %q", got)
	}
}
