package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestHostileImage has something else in the image at every place that the runtime touches: a link out, to itself, to what is no directory, a
// fifo that nobody writes to, or a file. The container is refused with the place that asked for it, or runs, and outside nothing changes.
func TestHostileImage(t *testing.T) {
	outside := t.TempDir()
	file(t, filepath.Join(outside, "file"), "of the host\n")
	places := []string{"proc", "dev", "sys", "etc", "etc/passwd", "etc/group", "home", "home/here", "dev/null", "dev/console", "dev/ptmx", "dev/pts", "devices", "tmp/mount", "tmp"}
	things := map[string]func(path string) error{
		"link out":      func(p string) error { return os.Symlink(outside, p) },
		"relative link": func(p string) error { return os.Symlink("../../../../../../../../.."+outside, p) },
		"link to /":     func(p string) error { return os.Symlink("/", p) },
		"loop":          func(p string) error { return os.Symlink(filepath.Base(p), p) },
		"magic link":    func(p string) error { return os.Symlink("/proc/self/root"+outside, p) },
		"long link":     func(p string) error { return os.Symlink(strings.Repeat("a/../", 800)+"x", p) },
		"dangling link": func(p string) error { return os.Symlink(outside+"/made", p) },
		"fifo":          func(p string) error { return unix.Mkfifo(p, 0o666) },
		"file":          func(p string) error { return os.WriteFile(p, []byte("root:x:0:0\n"), 0o600) },
		"directory":     func(p string) error { return os.Mkdir(p, 0) },
		"socket":        func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o666, 0) },
		"device":        func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(4, 0))) },
	}
	before := contents(t, outside)
	for _, own := range []bool{true, false} { // whether /dev is a file system of the container's
		for _, place := range places {
			for name, make := range things {
				l := newLab(t)
				b := l.bundle("true")
				if !own && !strings.HasPrefix(place, "dev") {
					continue
				}
				if !own {
					b.Spec.Mounts = append(b.Spec.Mounts[:1:1], b.Spec.Mounts[5:]...)
				}
				b.Spec.Root.Readonly = false
				b.Spec.Process.Cwd = "/home/here"
				b.Spec.Process.Terminal = own
				b.Spec.Linux.MaskedPaths = append(b.Spec.Linux.MaskedPaths, "/etc/passwd", "/home", "/"+place)
				b.Spec.Linux.ReadonlyPaths = append(b.Spec.Linux.ReadonlyPaths, "/etc/group", "/"+place)
				b.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/devices/fuse", Type: "c", Major: 10, Minor: 229}, {Path: "/dev/pipe", Type: "p"}}
				b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/tmp/mount/x", Type: "tmpfs", Source: "tmpfs"})
				at := filepath.Join(b.RootPath(), place)
				if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.RemoveAll(at), make(at)); err != nil {
					t.Fatal(err)
				}
				_, err := l.try(b, nil)
				if err != nil && !strings.Contains(err.Error(), "(config.json: ") && !strings.Contains(err.Error(), "make ") &&
					!strings.Contains(err.Error(), "standard streams") {
					t.Errorf("%s at /%s: the error does not say where: %v", name, place, err)
				}
				if now := contents(t, outside); now != before {
					t.Fatalf("%s at /%s: outside was\n%sand is\n%s", name, place, before, now)
				}
			}
		}
	}
}

// contents describes a directory and all below.
func contents(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		fmt.Fprintln(&out, path, info.Mode(), info.ModTime().UnixNano())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}
