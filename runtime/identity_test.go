package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestUser checks a user without privileges, its groups, ambient capabilities and ownership of its pipes.
func TestUser(t *testing.T) {
	l := newLab(t)
	b := l.bundle("id; echo $HOME; umask; grep -E 'Cap(Eff|Amb)' /proc/self/status; echo again >/dev/stdout")
	umask := uint32(0o027)
	b.Spec.Process.User = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{5, 6}, Umask: &umask}
	b.Spec.Process.Capabilities.Inheritable = []string{"CAP_NET_BIND_SERVICE"}
	b.Spec.Process.Capabilities.Ambient = []string{"CAP_NET_BIND_SERVICE"}
	want := "uid=1000(user) gid=1001 groups=1001,5,6\n/home/user\n0027\nCapEff:\t0000000000000400\nCapAmb:\t0000000000000400\nagain\n"
	out, _ := l.run(b)
	if got := strings.ReplaceAll(out, "groups=5,6,1001", "groups=1001,5,6"); got != want && strings.ReplaceAll(got, "groups=5,6", "groups=1001,5,6") != want {
		t.Errorf("got  %q\nwant %q", out, want)
	}
}

// TestUserNamespace runs as root of a user namespace.
func TestUserNamespace(t *testing.T) {
	l := newLab(t)
	b := l.bundle("id -u; cat /proc/self/uid_map; stat -c %F /dev/null; echo x >/dev/null && echo ok")
	if err := filepath.WalkDir(b.RootPath(), func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 100000, 100000))
	}); err != nil {
		t.Fatal(err)
	}
	for dir := b.RootPath(); dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && dir != "/tmp" && info.Mode().Perm()&0o005 != 0o005 {
			err = os.Chmod(dir, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	b.Spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	b.Spec.Linux.GIDMappings = b.Spec.Linux.UIDMappings
	out, code := l.run(b)
	want := []string{"0", "0", "100000", "65536", "character", "special", "file", "ok"}
	if got := strings.Fields(out); code != 0 || !slices.Equal(got, want) {
		t.Errorf("exit code %d, got %q, want %q", code, got, want)
	}
}

// TestJoinedNamespaces puts one container into namespaces of another.
func TestJoinedNamespaces(t *testing.T) {
	l := newLab(t)
	first := l.create("first", l.bundle("sleep 1000"))
	if err := first.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	pid := first.State().Pid
	b := l.bundle("ps; for n in net ipc uts pid mnt; do readlink /proc/self/ns/$n; done")
	b.Spec.Linux.CgroupsPath += "-second"
	b.Spec.Hostname = ""
	files := map[specs.LinuxNamespaceType]string{"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
	for i, ns := range b.Spec.Linux.Namespaces {
		if file := files[ns.Type]; file != "" {
			b.Spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/%s", pid, file)
		}
	}
	out, _ := l.run(b)
	if !strings.Contains(out, "sleep 1000") {
		t.Errorf("the first container's program is not seen:\n%s", out)
	}
	for _, ns := range []string{"net", "ipc", "uts", "pid"} {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if err != nil || !strings.Contains(out, link) {
			t.Errorf("not in namespace %s: %v\n%s", link, err, out)
		}
	}
	if link, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)); strings.Contains(out, link) {
		t.Errorf("in the first container's mount namespace")
	}
}
