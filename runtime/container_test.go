package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestDefaultBundle checks what the default specification promises, seen from inside.
func TestDefaultBundle(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"user", "id -u; id -g", "0\n0\n"},
		{"hostname", "hostname", "runc\n"},
		{"working directory", "pwd", "/\n"},
		{"home", "echo $HOME", "/root\n"},
		{"first process", "echo $$", "1\n"},
		{"session leader", "cut -d' ' -f6 /proc/1/stat", "1\n"},
		{"no new privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1\n"},
		{
			"capabilities", "grep -E 'Cap(Prm|Eff|Bnd|Inh|Amb)' /proc/self/status | sort",
			"CapAmb:\t0000000000000000\nCapBnd:\t0000000020000420\nCapEff:\t0000000020000420\nCapInh:\t0000000000000000\nCapPrm:\t0000000020000420\n",
		},
		{"limits", "ulimit -Sn; ulimit -Hn", "1024\n1024\n"},
		{"descriptors", "for f in 0 1 2 3 4 5 6 7 8 9; do [ -e /proc/1/fd/$f ] && echo $f; done", "0\n1\n2\n"},
		{"umask", "umask", "0022\n"},
		{"read-only root", "touch /file 2>&1", "touch: /file: Read-only file system\n"},
		{"read-only path", "echo 1 2>&1 >/proc/sys/kernel/printk", "sh: can't create /proc/sys/kernel/printk: Read-only file system\n"},
		{"masked file", "cat /proc/keys; echo $?", "0\n"},
		{"masked directory", "ls -A /sys/firmware; touch /sys/firmware/x 2>&1", "touch: /sys/firmware/x: Read-only file system\n"},
		{"shared memory", "stat -c %a /dev/shm; touch /dev/shm/x && echo ok", "1777\nok\n"},
		{
			"devices", "cd /dev; stat -c '%n %F %t:%T %a' null zero full random urandom tty; readlink fd; readlink stdin; readlink ptmx",
			"null character special file 1:3 666\nzero character special file 1:5 666\nfull character special file 1:7 666\n" +
				"random character special file 1:8 666\nurandom character special file 1:9 666\ntty character special file 5:0 666\n" +
				"/proc/self/fd\n/proc/self/fd/0\npts/ptmx\n",
		},
		{"no host mounts", "grep -c -v -E ' /(dev|proc|sys)?[/a-z._,-]* ' /proc/mounts", "0\n"},
		{"network", "grep -c : /proc/net/dev", "1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			b := l.bundle(c.script)
			for _, tool := range []string{"cut", "sort"} {
				if err := os.Symlink("busybox", filepath.Join(b.RootPath(), "bin", tool)); err != nil {
					t.Fatal(err)
				}
			}
			if out, _ := l.run(b); out != c.want {
				t.Errorf("%s\ngot  %q\nwant %q", c.script, out, c.want)
			}
		})
	}
}

// TestSignals checks that a program begins with no signal blocked, ignored or caught, although this one has handlers.
func TestSignals(t *testing.T) {
	l := newLab(t)
	b := l.bundle("")
	b.Spec.Process.Args = []string{"grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"}
	want := "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n"
	if out, _ := l.run(b); out != want {
		t.Errorf("got %q", out)
	}
}

// TestCgroupMembership checks that the process is in the container's cgroup of every hierarchy, and sees it under /sys/fs/cgroup.
func TestCgroupMembership(t *testing.T) {
	l := newLab(t)
	b := l.bundle("cat /proc/self/cgroup; cat /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs 2>/dev/null")
	out, _ := l.run(b)
	memberships, want := 0, b.Spec.Linux.CgroupsPath
	if hasNamespace(b, specs.CgroupNamespace) {
		want = "/"
	}
	for line := range strings.Lines(out) {
		if fields := strings.SplitN(strings.TrimSpace(line), ":", 3); len(fields) == 3 {
			if memberships++; fields[2] != want {
				t.Errorf("in cgroup %s, want %s", line, want)
			}
		}
	}
	if memberships == 0 || !strings.Contains(out, "\n1\n") {
		t.Errorf("no membership, or the container does not see its own processes:\n%s", out)
	}
}
