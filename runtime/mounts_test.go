package runtime

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/spec"
)

// TestMountFailureNamesItsOrigin checks the message that no other runtime has.
func TestMountFailureNamesItsOrigin(t *testing.T) {
	l := newLab(t)
	b := l.bundle("true")
	b.Spec.Mounts[3].Options = append(b.Spec.Mounts[3].Options, "nonsense=1")
	_, err := l.runtime.Create(l.ctx, "one", b, CreateOptions{})
	want := "mount tmpfs on /dev/shm: invalid argument (config.json: mounts[3])"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("create: %v, want %s", err, want)
	}
}

// TestOverlay runs on layers that are mounted only inside the container.
func TestOverlay(t *testing.T) {
	l := newLab(t)
	b := l.bundle("echo changed >/etc/plain; cat /etc/plain /etc/second; echo $HOME")
	b.Spec.Root.Readonly = false
	b.Spec.Process.Cwd = "/made/for/it"
	dir := t.TempDir()
	second := filepath.Join(dir, "a,b:c")
	b.Overlay = &spec.Overlay{Lower: []string{second, b.RootPath()}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}
	for _, d := range []string{filepath.Join(second, "etc"), b.Overlay.Upper, b.Overlay.Work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(second, "etc/second"), []byte("second\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, _ := l.run(b); out != "changed\nsecond\n/root\n" {
		t.Errorf("output %q", out)
	}
	if data, err := os.ReadFile(filepath.Join(b.Overlay.Upper, "etc/plain")); err != nil || string(data) != "changed\n" {
		t.Errorf("upper layer: %q, %v", data, err)
	}
	if data, err := os.ReadFile(filepath.Join(b.RootPath(), "etc/plain")); err != nil || string(data) != "no program\n" {
		t.Errorf("lower layer: %q, %v", data, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("the host sees a mount of the container's: %v", err)
	}
}

// TestSymlinkedMountpoint has an image whose mountpoint leads out of it: the mount has to stay inside.
func TestSymlinkedMountpoint(t *testing.T) {
	l := newLab(t)
	outside := t.TempDir()
	b := l.bundle("ls /escape; ls " + outside)
	b.Spec.Root.Readonly = false
	if err := os.Symlink(outside, filepath.Join(b.RootPath(), "escape")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(b.RootPath(), outside), 0o755); err != nil {
		t.Fatal(err)
	}
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	b.Spec.Mounts = append(b.Spec.Mounts,
		specs.Mount{Destination: "/escape", Source: source, Type: "bind", Options: []string{"bind"}},
		specs.Mount{Destination: "/escape/../../../../made", Source: source, Type: "bind", Options: []string{"rbind", "ro"}})
	out, code := l.run(b)
	if code != 0 || out != "file\nfile\n" {
		t.Errorf("exit code %d, output %q", code, out)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside: %v, %v", entries, err)
	}
}

// TestBindMounts checks files, directories, missing mountpoints and options.
func TestBindMounts(t *testing.T) {
	l := newLab(t)
	b := l.bundle("cat /new/file; touch /new/file /new/dir/x 2>&1; ls /new/dir; touch /rw/made && echo made")
	b.Spec.Root.Readonly = false
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("content\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.Spec.Mounts = append(b.Spec.Mounts,
		specs.Mount{Destination: "/new/file", Source: filepath.Join(source, "file"), Type: "bind", Options: []string{"bind", "ro"}},
		specs.Mount{Destination: "/new/dir", Source: source, Options: []string{"rbind", "rro", "rprivate"}},
		specs.Mount{Destination: "/rw", Source: source, Options: []string{"bind"}})
	want := "content\ntouch: /new/file: Read-only file system\ntouch: /new/dir/x: Read-only file system\nfile\nmade\n"
	if out, _ := l.run(b); out != want {
		t.Errorf("got  %q\nwant %q", out, want)
	}
}
