package runtime

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// giveTo makes a root file system another user's, who can reach it.
func giveTo(t *testing.T, root string, uid int) {
	t.Helper()
	if err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, uid))
	}); err != nil {
		t.Fatal(err)
	}
	for dir := root; dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && info.Mode().Perm()&0o001 == 0 {
			err = os.Chmod(dir, info.Mode().Perm()|0o055)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// namespaceOf reads which namespace a process is in.
func namespaceOf(t *testing.T, pid int, name string) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// unshared starts a program that sits in new namespaces, as unshare(1) makes them, and returns its pid.
func unshared(t *testing.T, flags uintptr) int {
	t.Helper()
	var names []string
	for flag, name := range map[uintptr]string{
		unix.CLONE_NEWNET: "--net", unix.CLONE_NEWUTS: "--uts", unix.CLONE_NEWIPC: "--ipc", unix.CLONE_NEWCGROUP: "--cgroup",
		unix.CLONE_NEWTIME: "--time", unix.CLONE_NEWNS: "--mount",
	} {
		if flags&flag != 0 {
			names = append(names, name)
		}
	}
	cmd := exec.Command("unshare", append(names, "sh", "-c", "echo; exec cat")...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("needs unshare: %v", err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// TestJoinUserNamespace puts a container into another's user namespace, together with a namespace that belongs to that one and with one of
// the host's, and gives it new ones of its own.
func TestJoinUserNamespace(t *testing.T) {
	l := newLab(t)
	first := l.bundle("exec sleep 1000")
	giveTo(t, first.RootPath(), 100000)
	first.Spec.Linux.Namespaces = append(first.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	first.Spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	first.Spec.Linux.GIDMappings = first.Spec.Linux.UIDMappings
	c := l.create("first", first)
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	pid, host := c.State().Pid, unshared(t, unix.CLONE_NEWNET)
	b := l.bundle("exec sleep 1000")
	b.Spec.Linux.CgroupsPath += "-second"
	giveTo(t, b.RootPath(), 100000)
	b.Spec.Hostname = ""
	b.Spec.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.MountNamespace},
		{Type: specs.PIDNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", host)},
		{Type: specs.UTSNamespace, Path: fmt.Sprintf("/proc/%d/ns/uts", pid)},
		{Type: specs.UserNamespace, Path: fmt.Sprintf("/proc/%d/ns/user", pid)},
	}
	for i := range b.Spec.Mounts { // a network namespace of the host's shows no sysfs to the root of another user namespace
		if b.Spec.Mounts[i].Type == "sysfs" {
			b.Spec.Mounts[i] = specs.Mount{Destination: "/sys", Source: "/sys", Type: "bind", Options: []string{"rbind", "ro"}}
		}
	}
	b.Spec.Linux.UIDMappings = []specs.LinuxIDMapping{ // engines repeat what the namespace has
		{ContainerID: 1000, HostID: 101000, Size: 64536}, {ContainerID: 0, HostID: 100000, Size: 1000},
	}
	second := l.create("second", b)
	if err := second.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]int{"net": host, "uts": pid, "user": pid} {
		if got, want := namespaceOf(t, second.State().Pid, name), namespaceOf(t, from, name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if inner, err := innerPid(second.State().Pid); err != nil || inner != 1 {
		t.Errorf("the program is process %d of its pid namespace, %v", inner, err)
	}
	out, code := l.exec(second, "id -u; cat /proc/1/comm; mount | grep -c ' on / '; echo x >/dev/null; kill -9 1; echo $$")
	if want := "0\nsleep\n1\n"; code != 0 || !strings.HasPrefix(out, want) {
		t.Errorf("exec: %d, %q, want %q", code, out, want)
	}
	b.Spec.Linux.UIDMappings = b.Spec.Linux.UIDMappings[1:]
	b.Spec.Linux.CgroupsPath += "-third"
	_, err := l.runtime.Create(l.ctx, "third", b, CreateOptions{})
	if want := "it has other uidMappings than the specification (config.json: linux.uidMappings)"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestNamespacePaths joins one namespace of each kind by its path, and names those that are none or of another kind.
func TestNamespacePaths(t *testing.T) {
	l := newLab(t)
	pid := unshared(t, unix.CLONE_NEWNET|unix.CLONE_NEWUTS|unix.CLONE_NEWIPC|unix.CLONE_NEWCGROUP|unix.CLONE_NEWTIME|unix.CLONE_NEWNS)
	files := map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: "net", specs.UTSNamespace: "uts", specs.IPCNamespace: "ipc", specs.CgroupNamespace: "cgroup",
		specs.TimeNamespace: "time", specs.MountNamespace: "mnt",
	}
	b := l.bundle("exec sleep 1000")
	b.Spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.PIDNamespace}}
	b.Spec.Hostname = ""
	for kind, file := range files {
		if file == "time" {
			file = "time_for_children"
		}
		b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: fmt.Sprintf("/proc/%d/ns/%s", pid, file)})
	}
	c := l.create("paths", b)
	for kind, file := range files {
		theirs := file
		if file == "time" {
			theirs = "time_for_children"
		}
		if got, want := namespaceOf(t, c.State().Pid, file), namespaceOf(t, pid, theirs); got != want {
			t.Errorf("%s: %s, want %s", kind, got, want)
		}
	}
	l.remove(c)
	for path, want := range map[string]string{
		"/proc/self/ns/net": "is a namespace of another type (config.json: linux.namespaces[0].path)",
		"/dev/null":         "/dev/null is no namespace (config.json: linux.namespaces[0].path)",
		"/nowhere":          "no such file or directory (config.json: linux.namespaces[0].path)",
	} {
		for _, kind := range []specs.LinuxNamespaceType{specs.UTSNamespace, specs.PIDNamespace, specs.UserNamespace} {
			b.Spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: kind, Path: path}, {Type: specs.MountNamespace}}
			if _, err := l.runtime.Create(l.ctx, "wrong", b, CreateOptions{}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s: %v, want %s", kind, path, err, want)
			}
		}
	}
}

// TestHostNamespaces runs a container that has nothing of its own but its root, and checks that nothing of it stays on the host.
func TestHostNamespaces(t *testing.T) {
	l := newLab(t)
	b := l.bundle("exec sleep 1000")
	b.Spec.Linux.Namespaces, b.Spec.Hostname = nil, ""
	b.Spec.Linux.ReadonlyPaths = []string{"/etc"}
	root := b.RootPath()
	mounts := func() (n int) {
		data, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if strings.HasPrefix(strings.Fields(line)[4], root) {
				n++
			}
		}
		return n
	}
	if err := unix.Mount(root, root, "", unix.MS_BIND, ""); err != nil { // as engines have it: a mount that has to stay
		t.Fatal(err)
	}
	defer unix.Unmount(root, unix.MNT_DETACH)
	if err := unix.Mount("", root, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	c := l.create("host", b)
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"net", "uts", "ipc", "cgroup", "time", "mnt", "pid", "user"} {
		if got, want := namespaceOf(t, c.State().Pid, name), namespaceOf(t, os.Getpid(), name); got != want {
			t.Errorf("%s: %s, want the host's %s", name, got, want)
		}
	}
	out, code := l.exec(c, "cat /etc/plain; echo x >/etc/plain || echo readonly; ls -d /usr || echo inside")
	if want := "no program\n"; code != 0 || !strings.HasPrefix(out, want) || !strings.Contains(out, "readonly") || !strings.Contains(out, "inside") {
		t.Errorf("exec: %d, %q", code, out)
	}
	if n := mounts(); n < 5 {
		t.Errorf("%d mounts on the host while the container runs", n)
	}
	l.remove(c)
	if n := mounts(); n != 1 {
		t.Errorf("%d mounts on the host after it, want the one from before", n)
	}
	b.Spec.Process.Args = []string{"/nothing"}
	if _, err := l.runtime.Run(l.ctx, "fails", b, CreateOptions{}); err == nil {
		t.Error("a program that is not there ran")
	}
	if n := mounts(); n != 1 {
		t.Errorf("%d mounts on the host after a failure, want the one from before", n)
	}
}

// TestTimeOffsets reads the clocks of a time namespace, also from a process that came later.
func TestTimeOffsets(t *testing.T) {
	l := newLab(t)
	b := l.bundle("exec sleep 1000")
	b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	b.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"monotonic": {Secs: 7881, Nanosecs: 2718281}, "boottime": {Secs: 1337, Nanosecs: 3141519}}
	c := l.create("time", b)
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/timens_offsets", c.State().Pid))
	if err != nil {
		t.Fatal(err)
	}
	out, _ := l.exec(c, "cat /proc/self/timens_offsets")
	for _, got := range []string{string(data), out} {
		if f := strings.Fields(got); strings.Join(f, " ") != "monotonic 7881 2718281 boottime 1337 3141519" {
			t.Errorf("offsets %q", got)
		}
	}
}

// TestKeyring wants a container to have a session keyring of its own, and an exec to have the container's.
func TestKeyring(t *testing.T) {
	l := newLab(t)
	b := l.bundle("exec sleep 1000")
	c := l.create("keys-test", b)
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	first := keyrings(t, "_ses.keys-test")
	if len(first) != 1 {
		t.Fatalf("keyrings %v", first)
	}
	p := *b.Spec.Process
	p.Args = []string{"sleep", "1000"}
	process, err := c.Exec(l.ctx, ExecOptions{Process: &p})
	if err != nil {
		t.Fatal(err)
	}
	l.reap(process)
	for id, users := range keyrings(t, "_ses.keys-test") {
		if users <= first[id] || first[id] == 0 {
			t.Errorf("keyring %s has %d users with an exec, had %d", id, users, first[id])
		}
	}
	o := CreateOptions{NoNewKeyring: true}
	o.Stdin = devNull(t)
	b.Spec.Linux.CgroupsPath += "-2"
	kept, err := l.runtime.Run(l.ctx, "kept", b, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.remove(kept) })
	if made := keyrings(t, "_ses.kept"); len(made) != 0 {
		t.Errorf("a keyring was made: %v", made)
	}
}

// keyrings returns the number of users of each keyring of a name, by its id.
func keyrings(t *testing.T, name string) map[string]int {
	t.Helper()
	data, err := os.ReadFile("/proc/keys")
	if err != nil {
		t.Skipf("needs a kernel with keyrings: %v", err)
	}
	out := map[string]int{}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 8 && f[8] == name+":" {
			if out[f[0]], err = strconv.Atoi(f[2]); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

// TestDeviceThatIsThere wants a device that an image brings to be taken when it is the one that is asked for, and refused when it is not.
func TestDeviceThatIsThere(t *testing.T) {
	l := newLab(t)
	b := l.bundle("stat -c %F:%t:%T /null /pipe")
	for name, dev := range map[string]uint64{"null": unix.Mkdev(1, 3), "other": unix.Mkdev(1, 5)} {
		if err := unix.Mknod(filepath.Join(b.RootPath(), name), unix.S_IFCHR|0o600, int(dev)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(b.RootPath(), "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/null", Type: "c", Major: 1, Minor: 3}, {Path: "/pipe", Type: "p"}}
	if out, code := l.run(b); code != 0 || out != "character special file:1:3\nfifo:0:0\n" {
		t.Errorf("%d, %q", code, out)
	}
	for _, path := range []string{"/other", "/etc/plain", "/etc"} {
		b.Spec.Linux.Devices = []specs.LinuxDevice{{Path: path, Type: "c", Major: 1, Minor: 3}}
		_, err := l.runtime.Create(l.ctx, "device", b, CreateOptions{})
		if want := "(config.json: linux.devices[0]); something else is there"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
}
