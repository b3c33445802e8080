package engines

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// option is what a container says when it was started with some flags.
type option struct {
	name   string
	flags  []string
	script string
	want   string
}

// say is a script that tells what is asked for.
const say = "grep -e ^CapEff -e ^CapBnd -e ^NoNewPrivs /proc/self/status | tr '\\t' ' '"

// runOptions are the flags of `podman run` that end in the runtime's hands.
var runOptions = []option{
	{"env", []string{"-e", "WORD=a b", "-w", "/var", "-h", "guest"}, "echo $WORD; pwd; hostname; cat /etc/hostname", "a b\n/var\nguest\nguest"},
	{"user", []string{"--user", "user"}, "id", "uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)"},
	{"user by number", []string{"--user", "12:34", "--group-add", "56"}, "id -u; id -g; id -G", "12\n34\n34 56"},
	{"umask", []string{"--umask", "077"}, "umask", "0077"},
	{"read-only", []string{"--read-only"}, "touch /x 2>&1; touch /tmp/x /run/x /dev/shm/x && echo tmp", "touch: /x: Read-only file system\ntmp"},
	{"read-only without tmpfs", []string{"--read-only", "--read-only-tmpfs=false"}, "touch /x /tmp/x 2>&1 | wc -l", "2"},
	{"tmpfs", []string{"--tmpfs", "/mnt/t:size=64k,mode=1700"}, "stat -c '%a %F' /mnt/t; grep -o '/mnt/t tmpfs.*size=64k' /proc/mounts | wc -l", "1700 directory\n1"},
	{"cap-drop all", []string{"--cap-drop", "all"}, say, "CapEff: 0000000000000000\nCapBnd: 0000000000000000\nNoNewPrivs: 0"},
	{"cap-drop one", []string{"--cap-drop", "chown"}, "touch /tmp/x; chown 1 /tmp/x 2>&1; true", "chown: /tmp/x: Operation not permitted"},
	{"cap-add", []string{"--cap-drop", "all", "--cap-add", "net_admin"}, say, "CapEff: 0000000000001000\nCapBnd: 0000000000001000\nNoNewPrivs: 0"},
	{"cap-add of a user", []string{"--user", "1000", "--cap-add", "net_raw"}, "grep CapAmb /proc/self/status", "CapAmb:\t0000000000002000"},
	{"no-new-privileges", []string{"--security-opt", "no-new-privileges"}, "grep NoNew /proc/self/status", "NoNewPrivs:\t1"},
	{"seccomp", nil, "grep Seccomp: /proc/self/status; unshare -m true 2>&1; true", "Seccomp:\t2\nunshare: unshare(0x20000): Operation not permitted"},
	{"seccomp of privileged", []string{"--privileged"}, "grep Seccomp: /proc/self/status; unshare -m true && echo done", "Seccomp:\t0\ndone"},
	{"seccomp by file", []string{"--security-opt", "seccomp=/run/seccomp.json"}, "mkdir /tmp/x 2>&1; grep Seccomp: /proc/self/status", "mkdir: can't create directory '/tmp/x': Host is down\nSeccomp:\t2"},
	{"seccomp unconfined", []string{"--security-opt", "seccomp=unconfined"}, "grep Seccomp: /proc/self/status", "Seccomp:\t0"},
	{"ulimit", []string{"--ulimit", "nproc=900:1000", "--ulimit", "nofile=100:200", "--ulimit", "core=0"}, "ulimit -n; ulimit -Hn; ulimit -c", "100\n200\n0"},
	{
		"sysctl",
		[]string{"--sysctl", "net.ipv4.ip_default_ttl=77", "--sysctl", "kernel.shmmni=99"},
		"cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/kernel/shmmni", "77\n99",
	},
	{"sysctl of podman", nil, "cat /proc/sys/net/ipv4/ping_group_range", "0\t0"},
	{
		"device",
		[]string{"--device", "/run/experiment:/dev/other:r"},
		"stat -c '%t:%T %a %F' /dev/other; for how in '<' '>'; do eval \"true $how /dev/other\" 2>&1; done; true",
		"f0:0 640 character special file\nsh: eval: line 0: can't open /dev/other: No such device or address\nsh: eval: line 0: can't create /dev/other: Operation not permitted",
	},
	{
		"devices", nil, "stat -c %n /dev/null /dev/full /dev/random /dev/tty /dev/ptmx; readlink /dev/fd; echo x > /dev/null; mknod /dev/sda b 8 0 && cat /dev/sda; true",
		"/dev/null\n/dev/full\n/dev/random\n/dev/tty\n/dev/ptmx\n/proc/self/fd",
	},
	{"shm-size", []string{"--shm-size", "128k"}, "df -k /dev/shm | awk 'END {print $2}'", "128"},
	{"init", []string{"--init"}, "cat /proc/1/comm", "podman-init"},
	{"masked", nil, "cat /proc/keys /proc/timer_list | wc -c; ls /sys/firmware | wc -l; touch /proc/sys/kernel/hostname 2>&1; true", "0\n0\ntouch: /proc/sys/kernel/hostname: Read-only file system"},
	{"unmask", []string{"--security-opt", "unmask=/proc/timer_list"}, "grep -c . /proc/timer_list | grep -vx 0 | wc -l", "1"},
	{"mask", []string{"--security-opt", "mask=/etc/passwd"}, "wc -c < /etc/passwd", "0"},
	{"oom-score-adj", []string{"--oom-score-adj", "500"}, "cat /proc/self/oom_score_adj", "500"},
	{"network none", []string{"--network", "none"}, "ls /sys/class/net", "lo"},
	{"network bridge", []string{"--cap-add", "net_raw"}, "ls /sys/class/net; ip -4 -o addr show eth0 | grep -o 'inet 10.88[0-9.]*/16' | wc -l; ping -c 1 -W 5 10.88.0.1 >/dev/null && echo answers", "eth0\nlo\n1\nanswers"},
	{"network host", []string{"--network", "host"}, "ls -d /sys/class/net/lo; hostname", "/sys/class/net/lo\ncell"},
	{"no hosts", []string{"--add-host", "other:10.1.2.3", "--network", "none"}, "grep -c other /etc/hosts", "1"},
	{"ipc host", []string{"--ipc", "host"}, "ls -d /dev/shm", "/dev/shm"},
	{"privileged", []string{"--privileged"}, "mkdir /mnt && mount -t tmpfs x /mnt && mkdir /mnt/ok && ls /mnt; echo 1 > /proc/sys/net/ipv4/ip_forward && echo writable; ls /dev/kmsg", "ok\nwritable\n/dev/kmsg"},
	{"systemd mode", []string{"--systemd", "always"}, "grep -c -e ' /run tmpfs ' -e ' /tmp tmpfs ' /proc/mounts", "2"},
	{"timezone", []string{"--tz", "local"}, "ls /etc/localtime", "/etc/localtime"},
	{"entrypoint", []string{"--entrypoint", `["/bin/sh","-c","echo entered $0 $1"]`}, "", "entered sh -c"},
	{"unsetenv", []string{"--http-proxy=false", "-e", "A=1", "--unsetenv", "TERM"}, "env | grep -e ^A= -e ^TERM=", "A=1"},
	{"label", []string{"--label", "a=b", "--annotation", "c=d", "--stop-signal", "USR1"}, "echo up", "up"},
}

// makeDevice makes /run/experiment, a device whose number is for experiments, so that no driver has it.
func makeDevice(t *testing.T) {
	t.Helper()
	if err := unix.Mknod("/run/experiment", unix.S_IFCHR|0o640, int(unix.Mkdev(240, 0))); err != nil && !errors.Is(err, unix.EEXIST) {
		t.Fatal(err)
	}
}

// TestPodmanOptions starts a container for every flag of `podman run` that ends in the runtime's hands, and asks inside.
func TestPodmanOptions(t *testing.T) {
	e := newPodman(t)
	makeDevice(t)
	const profile = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 112}]}`
	if err := os.WriteFile("/run/seccomp.json", []byte(profile), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, o := range runOptions {
		t.Run(o.name, func(t *testing.T) {
			args := append([]string{"run", "--rm"}, o.flags...)
			args = append(args, image, "sh", "-c")
			if o.script != "" {
				args = append(args, o.script)
			}
			(&engine{t}).want(o.want, args...)
		})
	}
	e.want("", "ps", "-aq")
}

// TestPodmanHostPid looks at the processes of the host, and ends with those that the container has started.
func TestPodmanHostPid(t *testing.T) {
	e := newPodman(t)
	e.want("tests", "run", "--rm", "--pid", "host", "-e", "ME=tests", image, "sh", "-c", "[ $$ != 1 ] && grep -q engines.test /proc/*/cmdline && echo $ME")
	id := e.do("run", "-d", "--pid", "host", image, "sh", "-c", "sleep 7777 & sleep 7777")
	e.do("rm", "-f", "-t", "0", id)
	if left := leftovers(); len(left) > 0 {
		waitFor(t, "the container's processes to end", func() bool { return len(leftovers()) == 0 })
	}
}

// TestPodmanUserNamespaces starts containers whose root is nobody on the host.
func TestPodmanUserNamespaces(t *testing.T) {
	e := newPodman(t)
	for _, o := range []option{
		{
			"mapped",
			[]string{"--uidmap", "0:200000:5000", "--gidmap", "0:300000:5000"},
			"cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; touch /x; stat -c %u:%g /x /etc/passwd; stat -Lc %u /proc/self",
			"0 200000 5000\n 0 300000 5000\n0\n0:0\n0:0\n0",
		},
		{"mapped, another user", []string{"--uidmap", "0:200000:5000", "--user", "user", "--cap-add", "net_raw"}, "id -u; ls /dev/null", "1000\n/dev/null"},
		{"host", []string{"--userns", "host"}, "cat /proc/self/uid_map | tr -s ' '", "0 0 4294967295"},
		{"a namespace of its own without a network", []string{"--uidmap", "0:200000:5000", "--network", "none", "--read-only"}, "ls /sys/class/net", "lo"},
	} {
		t.Run(o.name, func(t *testing.T) {
			(&engine{t}).want(o.want, append(append([]string{"run", "--rm"}, o.flags...), image, "sh", "-c", o.script)...)
		})
	}
	t.Run("auto", func(t *testing.T) {
		for _, name := range []string{"/etc/subuid", "/etc/subgid"} { // on the machine's copy of /etc
			if err := os.WriteFile(name, []byte("containers:400000:200000\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got := e.do("run", "--rm", "--userns", "auto", image, "sh", "-c", "cat /proc/self/uid_map; id -u")
		if f := strings.Fields(got); len(f) != 4 || f[0] != "0" || f[1] < "400000" || f[3] != "0" {
			t.Errorf("the mapping and the user are %q", got)
		}
	})
}

// TestPodmanVolumes mounts directories and volumes.
func TestPodmanVolumes(t *testing.T) {
	e := newPodman(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "note"), []byte("from outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	e.want("from outside", "run", "--rm", "-v", dir+":/data", image, "sh", "-c", "cat /data/note; echo inside > /data/answer")
	if got, err := os.ReadFile(filepath.Join(dir, "answer")); string(got) != "inside\n" {
		t.Errorf("the answer is %q (%v)", got, err)
	}
	e.want("sh: can't create /data/x: Read-only file system", "run", "--rm", "-v", dir+":/data:ro", image, "sh", "-c", "(echo > /data/x) 2>&1; true")
	e.want("from outside", "run", "--rm", "-v", filepath.Join(dir, "note")+":/etc/note:ro,nosuid,nodev,noexec", image, "cat", "/etc/note")
	e.want("1", "run", "--rm", "-v", dir+":/data:noexec,rshared", image, "sh", "-c", "grep ' /data ' /proc/mounts | grep -c noexec")
	e.want("0\ninside", "run", "--rm", "-v", dir+":/data:O", image, "sh", "-c", "echo changed > /data/note; echo $?; cat /data/answer")
	if got, _ := os.ReadFile(filepath.Join(dir, "note")); string(got) != "from outside\n" {
		t.Errorf("an overlay volume has changed the file to %q", got)
	}
	e.do("run", "--rm", "-v", "vol:/data", image, "sh", "-c", "echo kept > /data/note")
	e.want("kept", "run", "--rm", "--mount", "type=volume,src=vol,dst=/other,ro", image, "cat", "/other/note")
	e.want("tmpfs", "run", "--rm", "--mount", "type=tmpfs,dst=/etc/t,tmpcopyup", image, "sh", "-c", "awk '$2 == \"/etc/t\" {print $3}' /proc/mounts")
	e.want("root:x:0:0:root:/root:/bin/sh", "run", "--rm", "--mount", "type=tmpfs,dst=/etc,tmpcopyup", image, "head", "-n", "1", "/etc/passwd")
	e.want("bin", "run", "--rm", "--mount", "type=image,src="+image+",dst=/image", image, "sh", "-c", "ls /image | head -n 1")
}
