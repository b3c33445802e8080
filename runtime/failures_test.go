package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/boot"
	"github.com/zap-migrate/zap/spec"
)

// TestFailures has each kind of operation fail that a specification or an image can make fail, and wants the object, the cause, the place in
// config.json and the system call named. What is not here (pivot_root, fsmount, umask, …) fails by no specification.
func TestFailures(t *testing.T) {
	mount := func(m specs.Mount) func(*testing.T, *spec.Bundle) {
		return func(_ *testing.T, b *spec.Bundle) { b.Spec.Mounts = append(b.Spec.Mounts, m) }
	}
	for _, tt := range []struct {
		call   string
		change func(t *testing.T, b *spec.Bundle)
		want   string
		err    unix.Errno
	}{
		{"fsopen", mount(specs.Mount{Destination: "/tmp", Type: "nofs"}), "mount nofs on /tmp: no such device (config.json: mounts[7])", unix.ENODEV},
		{"fsconfig", mount(specs.Mount{Destination: "/tmp", Type: "tmpfs", Options: []string{"size=big"}}), "mount tmpfs on /tmp: invalid argument (config.json: mounts[7])", unix.EINVAL},
		{"mount", mount(specs.Mount{Destination: "/tmp", Type: "tmpfs", Options: []string{"iversion", "size=big"}}), "mount tmpfs on /tmp: invalid argument (config.json: mounts[7])", unix.EINVAL},
		{"fsconfig", mount(specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Options: []string{"remount", "size=big"}}), "mount tmpfs on /dev/shm: invalid argument (config.json: mounts[7])", unix.EINVAL},
		{"openat2", mount(specs.Mount{Destination: "/nowhere", Type: "tmpfs", Options: []string{"remount"}}), "mount tmpfs on /nowhere: no such file or directory (config.json: mounts[7])", unix.ENOENT},
		{"open_tree", mount(bindMount("/nowhere/at/all", "/tmp")), "mount /nowhere/at/all on /tmp: no such file or directory (config.json: mounts[7])", unix.ENOENT},
		{"move_mount", mount(bindMount("/tmp", "/etc/plain")), "mount /tmp on /etc/plain: invalid argument (config.json: mounts[7]); a directory does not go on a file, nor a file on a directory", unix.EINVAL},
		{"mkdirat", mount(bindMount("/tmp", "/sys/new")), "mount /tmp on /sys/new: read-only file system (config.json: mounts[7])", unix.EROFS},
		{"mknodat", mount(bindMount("/etc/passwd", "/sys/new")), "mount /etc/passwd on /sys/new: ", 0},
		{"mount_setattr", mount(specs.Mount{Destination: "/tmp", Source: "/proc", Options: []string{"bind", "idmap"}, UIDMappings: mapping(0, 1, 1), GIDMappings: mapping(0, 1, 1)}), "mount /proc on /tmp: invalid argument (config.json: mounts[7]); the file system may not know id-mapped mounts", unix.EINVAL},
		{"openat2", func(t *testing.T, b *spec.Bundle) { must(t, os.Symlink("/tmp", filepath.Join(b.RootPath(), "proc"))) }, "mount proc on /proc: too many levels of symbolic links (config.json: mounts[0]); must be mounted on ordinary directory", unix.ELOOP},
		{"open_tree", func(t *testing.T, b *spec.Bundle) { b.Spec.Root.Path = filepath.Join(t.TempDir(), "nothing") }, "open root ", unix.ENOENT},
		{"mknodat", func(_ *testing.T, b *spec.Bundle) {
			b.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/sys/node", Type: "c", Major: 1, Minor: 3}}
		}, "make device /sys/node: ", 0},
		{"openat2", func(t *testing.T, b *spec.Bundle) {
			b.Spec.Linux.MaskedPaths = []string{"/loop"}
			must(t, os.Symlink("/loop", filepath.Join(b.RootPath(), "loop")))
		}, "mask /loop: too many levels of symbolic links (config.json: linux.maskedPaths[0])", unix.ELOOP},
		{"openat2", func(t *testing.T, b *spec.Bundle) {
			b.Spec.Linux.ReadonlyPaths = []string{"/x", "/loop"}
			must(t, os.Symlink("/loop", filepath.Join(b.RootPath(), "loop")))
		}, "make /loop read-only: too many levels of symbolic links (config.json: linux.readonlyPaths[1])", unix.ELOOP},
		{"sethostname", func(_ *testing.T, b *spec.Bundle) { b.Spec.Hostname = strings.Repeat("h", 65) }, "set hostname hhhh", unix.EINVAL},
		{"setdomainname", func(_ *testing.T, b *spec.Bundle) { b.Spec.Domainname = strings.Repeat("d", 65) }, "set domainname dddd", unix.EINVAL},
		{"write", func(_ *testing.T, b *spec.Bundle) {
			b.Spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "x"}
		}, "set sysctl net.ipv4.ip_forward: invalid argument (config.json: linux.sysctl.net.ipv4.ip_forward)", unix.EINVAL},
		{"openat2", func(_ *testing.T, b *spec.Bundle) { b.Spec.Linux.Sysctl = map[string]string{"net.no.such": "1"} }, "set sysctl net.no.such: no such file or directory (config.json: linux.sysctl.net.no.such)", unix.ENOENT},
		{"prlimit64", func(_ *testing.T, b *spec.Bundle) {
			b.Spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Soft: 2, Hard: 1}}
		}, "set limit RLIMIT_CPU: invalid argument (config.json: process.rlimits[0])", unix.EINVAL},
		{"chdir", func(_ *testing.T, b *spec.Bundle) { b.Spec.Process.Cwd = "/etc/plain" }, "change to working directory /etc/plain: not a directory (config.json: process.cwd)", unix.ENOTDIR},
		{"setresuid", func(t *testing.T, b *spec.Bundle) { withUsers(t, b); b.Spec.Process.User.UID = 70000 }, "become user 70000:0: invalid argument (config.json: process.user)", unix.EINVAL},
		{"setgroups", func(t *testing.T, b *spec.Bundle) {
			withUsers(t, b)
			b.Spec.Process.User.AdditionalGids = []uint32{70000}
		}, "set groups [70000]: invalid argument (config.json: process.user.additionalGids)", unix.EINVAL},
		{"", func(_ *testing.T, b *spec.Bundle) { b.Spec.Process.Args = []string{"nothing-of-this-name"} }, `exec "nothing-of-this-name": executable file not found in $PATH (config.json: process.args)`, 0},
		{"", func(_ *testing.T, b *spec.Bundle) { b.Spec.Process.Args = []string{"/etc/plain"} }, `exec "/etc/plain": permission denied`, unix.EACCES},
	} {
		t.Run(tt.call+" "+tt.want, func(t *testing.T) {
			l := newLab(t)
			b := l.bundle("true")
			b.Spec.Root.Readonly = false
			tt.change(t, b)
			_, err := l.try(b, nil)
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "(config.json: ") {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if tt.call != "" && !strings.Contains(err.Error(), " in "+tt.call+"(") {
				t.Errorf("%s is not named: %v", tt.call, err)
			}
			if tt.err != 0 && !errors.Is(err, tt.err) {
				t.Errorf("%v is not %v", err, tt.err)
			}
			var failure *boot.Failure
			if !errors.As(err, &failure) {
				t.Errorf("no *boot.Failure: %v", err)
			}
		})
	}
}

// must wants a change of an image to have worked.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
