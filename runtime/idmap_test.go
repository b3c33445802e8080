package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/boot"
)

// mapping is a map of one range.
func mapping(container, host, size uint32) []specs.LinuxIDMapping {
	return []specs.LinuxIDMapping{{ContainerID: container, HostID: host, Size: size}}
}

// TestIDMappedMounts maps the ids of files by a mount's own maps and by those of the container, with and without those of the mounts below.
func TestIDMappedMounts(t *testing.T) {
	source := t.TempDir()
	below := filepath.Join(source, "below")
	file(t, filepath.Join(source, "file"), "")
	file(t, filepath.Join(below, "hidden"), "")
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, ""); err != nil {
		t.Skipf("needs root: mounts: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(below, unix.MNT_DETACH) })
	file(t, filepath.Join(below, "file"), "")
	for _, f := range []string{source, filepath.Join(source, "file"), filepath.Join(below, "file")} {
		if err := os.Chown(f, 100, 200); err != nil {
			t.Fatal(err)
		}
	}
	openUp(t, source)
	for _, tt := range []struct {
		name      string
		users     bool
		options   string
		uids      []specs.LinuxIDMapping
		gids      []specs.LinuxIDMapping
		top, deep string
	}{
		{"plain", false, "rbind", nil, nil, "100:200", "100:200"},
		{"mapped", false, "rbind", mapping(100, 1100, 3), mapping(200, 2200, 3), "1100:2200", "100:200"},
		{"idmap", false, "rbind,idmap,ro", mapping(100, 1100, 3), mapping(200, 2200, 3), "1100:2200", "100:200"},
		{"ridmap", false, "rbind,ridmap", mapping(100, 1100, 3), mapping(200, 2200, 3), "1100:2200", "1100:2200"},
		{"outside the map", false, "bind,idmap", mapping(0, 1100, 3), mapping(0, 2200, 3), "65534:65534", ""},
		{"plain in a user namespace", true, "rbind", nil, nil, "65534:65534", "65534:65534"},
		{"the container's map", true, "rbind,idmap", nil, nil, "100:200", "65534:65534"},
		{"the container's map below", true, "rbind,ridmap", nil, nil, "100:200", "100:200"},
		{"own map in a user namespace", true, "rbind,ridmap", mapping(100, 100007, 3), mapping(200, 100008, 3), "7:8", "7:8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			b := l.bundle("for f in /data/file /data/below/file; do [ -e $f ] && stat -c %u:%g $f; done; true")
			b.Spec.Root.Readonly = false
			if tt.users {
				withUsers(t, b)
			}
			b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{
				Destination: "/data", Source: source, Options: strings.Split(tt.options, ","), UIDMappings: tt.uids, GIDMappings: tt.gids,
			})
			want := tt.top + "\n"
			if tt.deep != "" {
				want += tt.deep + "\n"
			}
			l.wantOutput(b, want)
		})
	}
}

// TestIDMappedTmpfs maps the ids of a new file system.
func TestIDMappedTmpfs(t *testing.T) {
	l := newLab(t)
	b := l.bundle("stat -c %u:%g /tmp; touch /tmp/x 2>&1")
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{
		Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"idmap", "mode=777"}, UIDMappings: mapping(0, 5, 1), GIDMappings: mapping(0, 6, 1),
	})
	if out, code := l.run(b); code == 0 || out != "5:6\ntouch: /tmp/x: Value too large for defined data type\n" {
		t.Errorf("exit code %d, got %q", code, out)
	}
}

// TestHiddenSource mounts in a user namespace what its root may not look at.
func TestHiddenSource(t *testing.T) {
	l := newLab(t)
	b := l.bundle("cat /data")
	withUsers(t, b)
	source := filepath.Join(t.TempDir(), "hidden/file")
	file(t, source, "content\n")
	openUp(t, filepath.Dir(filepath.Dir(source)))
	if err := os.Chmod(filepath.Dir(source), 0o700); err != nil {
		t.Fatal(err)
	}
	b.Spec.Root.Readonly = false
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/data", Source: source, Options: []string{"bind"}})
	l.wantOutput(b, "content\n")
}

// TestUserNamespaceLeavesNothing makes user namespaces for mounts: the processes that takes are gone, and so are the namespaces when closed.
func TestUserNamespaceLeavesNothing(t *testing.T) {
	newLab(t)
	before := children(t)
	for i := range 20 {
		ns, err := boot.NewUserNamespace(mapping(0, uint32(1000*i), 10), mapping(5, 7, 3))
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(ns.Fd()), &st); err != nil || st.Ino == 0 {
			t.Errorf("no namespace: %v", err)
		}
		ns.Close()
	}
	if after := children(t); after != before {
		t.Errorf("child processes %q before and %q after", before, after)
	}
	for _, wrong := range [][]specs.LinuxIDMapping{nil, {{Size: 1}, {Size: 1}}} {
		if _, err := boot.NewUserNamespace(mapping(0, 0, 10), wrong); err == nil {
			t.Errorf("%v was accepted", wrong)
		}
	}
	if after := children(t); after != before {
		t.Errorf("child processes %q before and %q after a failure", before, after)
	}
}

// children lists this process's children.
func children(t *testing.T) string {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	all := ""
	for _, f := range tasks {
		data, _ := os.ReadFile(f)
		all += string(data)
	}
	return all
}
