package runtime

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/spec"
)

// bindMount is a mount of a host's directory or file.
func bindMount(source, destination string) specs.Mount {
	return specs.Mount{Destination: destination, Source: source, Options: []string{"rbind", "rprivate"}}
}

// before puts a mount before all others.
func before(b *spec.Bundle, m specs.Mount) {
	b.Spec.Mounts = append([]specs.Mount{m}, b.Spec.Mounts...)
}

// wantRefused wants a container not to be made, for a reason.
func (l *lab) wantRefused(b *spec.Bundle, want ...string) {
	l.t.Helper()
	output, err := l.try(b, nil)
	if err == nil {
		l.t.Fatalf("was run, and printed %q", output)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			l.t.Errorf("the error has no %q: %v", w, err)
		}
	}
}

// TestCVE201916884 has an image whose volumes are in /proc, or lead there: what labels the process would be written into the volume.
func TestCVE201916884(t *testing.T) {
	l := newLab(t)
	for _, tt := range []struct{ destination, want string }{
		{"/proc", "cannot be mounted because it is not of type proc (config.json: mounts[7]"},
		{"/proc/self/attr", "cannot be mounted because it is inside /proc (config.json: mounts[7].destination)"},
		{"/x/../proc/self", "cannot be mounted because it is inside /proc (config.json: mounts[7].destination)"},
		{"/link/self/attr", "cannot be mounted because it is inside /proc (config.json: mounts[7])"},
		{"/attr", "cannot be mounted because it is inside /proc (config.json: mounts[7])"},
		{"/loop", "too many levels of symbolic links"},
	} {
		t.Run(tt.destination, func(t *testing.T) {
			l := *l
			l.t = t
			b := l.bundle("true")
			for name, to := range map[string]string{"link": "/proc", "attr": "/link/self/attr/.", "loop": "/loop/x"} {
				if err := os.Symlink(to, filepath.Join(b.RootPath(), name)); err != nil {
					t.Fatal(err)
				}
			}
			b.Spec.Mounts = append(b.Spec.Mounts, bindMount(t.TempDir(), tt.destination))
			if tt.destination == "/proc" {
				l.wantRefused(b, "mount "+b.Spec.Mounts[7].Source+" on /proc: ", "cannot be mounted because it is not of type proc")
				b.Spec.Mounts[7] = specs.Mount{Destination: "/proc", Type: "tmpfs", Source: "tmpfs"}
			}
			l.wantRefused(b, tt.want[:len(tt.want)-min(len(tt.want), 1)])
		})
	}
	t.Run("what may be", func(t *testing.T) {
		l := *l
		l.t = t
		b := l.bundle("cat /proc/uptime; grep -c ' /proc proc' /proc/mounts")
		uptime := filepath.Join(t.TempDir(), "uptime")
		file(t, uptime, "1.0 2.0\n")
		before(&spec.Bundle{Spec: b.Spec}, specs.Mount{Destination: "/proc", Source: "/proc", Options: []string{"bind"}})
		b.Spec.Mounts = append(b.Spec.Mounts, bindMount(uptime, "/proc/uptime"))
		l.wantOutput(b, "1.0 2.0\n2\n")
	})
}

// TestCVE201919921 has an image in which /proc is a link into a volume that the attacker changes meanwhile: what is masked would be masked
// in another place than the one that is used.
func TestCVE201919921(t *testing.T) {
	l := newLab(t)
	b := l.bundle("cat /proc/mounts")
	volume := t.TempDir()
	if err := errors.Join(os.Symlink("/volume/proc", filepath.Join(b.RootPath(), "proc")), os.Mkdir(filepath.Join(volume, "proc"), 0o755),
		os.Symlink("/tmp", filepath.Join(volume, "other"))); err != nil {
		t.Fatal(err)
	}
	b.Spec.Root.Readonly = false
	before(b, bindMount(volume, "/volume"))
	swap := func() func() { return exchange(t, filepath.Join(volume, "proc"), filepath.Join(volume, "other")) }
	l.race(b, swap, func(output string, err error) {
		if err == nil {
			t.Errorf("was run: %s", output)
		} else if !strings.Contains(err.Error(), "must be mounted on ordinary directory") {
			t.Error(err)
		}
	})
}

// TestCVE202327561 is the same by a link of the image itself that comes and goes, for /proc and for /sys. When it comes after the mount, the
// mount has another name: it has to be masked there too.
func TestCVE202327561(t *testing.T) {
	for _, name := range []string{"proc", "sys"} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			b := l.bundle(`for d in /proc /sys; do [ -L $d ] && d=/link; stat -f -c %t $d; done
				p=/proc; [ -L $p ] && p=/link; stat -c %t:%T $p/keys; (: >$p/sys/kernel/printk) 2>&-; echo $?
				s=/sys; [ -L $s ] && s=/link; ls -A $s/firmware`)
			b.Spec.Root.Readonly = false
			root := b.RootPath()
			if err := errors.Join(os.Mkdir(filepath.Join(root, name), 0o755), os.Mkdir(filepath.Join(root, "bad"), 0o755),
				os.Symlink("/bad", filepath.Join(root, "link"))); err != nil {
				t.Fatal(err)
			}
			const want = "9fa0\n62656572\n1:3\n1\n"
			l.race(b, func() func() {
				return exchange(t, filepath.Join(root, name), filepath.Join(root, "link"))
			}, func(output string, err error) {
				if err == nil && output != want {
					t.Errorf("got  %q\nwant %q", output, want)
				}
				if err != nil && !strings.Contains(err.Error(), "(config.json: ") {
					t.Error(err)
				}
			})
		})
	}
}

// TestCVE202328642 has /proc as a link that stays: labels and masks would be written and mounted elsewhere.
func TestCVE202328642(t *testing.T) {
	for _, name := range []string{"proc", "sys"} {
		l := newLab(t)
		b := l.bundle("true")
		if err := errors.Join(os.Symlink("/bad", filepath.Join(b.RootPath(), name)), os.Mkdir(filepath.Join(b.RootPath(), "bad"), 0o755)); err != nil {
			t.Fatal(err)
		}
		l.wantRefused(b, "must be mounted on ordinary directory", "(config.json: mounts[", " on /"+name+": ")
	}
	l := newLab(t)
	b := l.bundle("true")
	file(t, filepath.Join(b.RootPath(), "proc"), "")
	l.wantRefused(b, "mount proc on /proc: not a directory (config.json: mounts[0]); must be mounted on ordinary directory")
}

// TestCVE202130465 has a volume in which the mountpoint of another volume changes places with a link to /: on the way from the check to the
// mount a runtime would mount over the host's root in its own mount namespace, and show the host to the container.
func TestCVE202130465(t *testing.T) {
	for _, to := range []string{"/", "/proc/1/root"} {
		t.Run(to, func(t *testing.T) {
			l := newLab(t)
			secret := filepath.Join(t.TempDir(), "secret")
			file(t, secret, "of the host\n")
			volume, content := t.TempDir(), t.TempDir()
			file(t, filepath.Join(content, "content"), "of the volume\n")
			if err := errors.Join(os.Mkdir(filepath.Join(volume, "dest"), 0o755), os.Symlink(to, filepath.Join(volume, "link"))); err != nil {
				t.Fatal(err)
			}
			b := l.bundle("cat /volume/dest/content; cat " + secret + " /volume/dest" + secret + " 2>&-; ls / | grep -x content; true")
			b.Spec.Root.Readonly = false
			b.Spec.Mounts = append(b.Spec.Mounts, bindMount(volume, "/volume"), bindMount(content, "/volume/dest"),
				bindMount(content, "/volume/dest/deeper"))
			swap := func() func() { return exchange(t, filepath.Join(volume, "dest"), filepath.Join(volume, "link")) }
			l.race(b, swap, func(output string, err error) {
				if strings.Contains(output, "of the host") || strings.Contains(output, "content\n") {
					t.Errorf("got %q", output)
				}
			})
			if mounts := mountTable(t); strings.Contains(mounts, volume) || strings.Contains(mounts, content) || strings.Contains(mounts, b.RootPath()) {
				t.Errorf("the host has a mount of the container's:\n%s", mounts)
			}
		})
	}
}

// mountTable is this process's mounts.
func mountTable(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestCVE202445310 is the race of a directory with a link while the runtime makes what is missing of a mountpoint: it would make empty files
// and directories on the host.
func TestCVE202445310(t *testing.T) {
	l := newLab(t)
	volume, outside, content := t.TempDir(), t.TempDir(), t.TempDir()
	file(t, filepath.Join(content, "file"), "")
	if err := errors.Join(os.Mkdir(filepath.Join(volume, "dest"), 0o755), os.Symlink(outside, filepath.Join(volume, "link"))); err != nil {
		t.Fatal(err)
	}
	b := l.bundle("true")
	b.Spec.Root.Readonly = false
	if err := os.MkdirAll(filepath.Join(b.RootPath(), outside), 0o755); err != nil {
		t.Fatal(err)
	}
	b.Spec.Mounts = append(b.Spec.Mounts, bindMount(volume, "/volume"), bindMount(content, "/volume/dest/made/by/zap"),
		bindMount(filepath.Join(content, "file"), "/volume/dest/file"),
		specs.Mount{Destination: "/volume/dest/tmpfs", Type: "tmpfs", Source: "tmpfs"})
	b.Spec.Process.Cwd = "/volume/dest/cwd"
	b.Spec.Linux.Devices = []specs.LinuxDevice{{Path: "/volume/dest/dev/null", Type: "c", Major: 1, Minor: 3}}
	swap := func() func() { return exchange(t, filepath.Join(volume, "dest"), filepath.Join(volume, "link")) }
	l.race(b, swap, func(string, error) {
		if made, err := os.ReadDir(outside); err != nil || len(made) > 0 {
			t.Errorf("made on the host: %v, %v", made, err)
		}
		// Otherwise there is nothing left to make in the next round.
		for _, dir := range []string{filepath.Join(volume, "dest"), filepath.Join(volume, "link"), filepath.Join(b.RootPath(), outside)} {
			if fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
				f := os.NewFile(uintptr(fd), dir)
				for _, name := range []string{"made", "file", "tmpfs", "cwd", "dev"} {
					if root, err := os.OpenRoot(dir); err == nil {
						_ = root.RemoveAll(name)
						root.Close()
					}
				}
				f.Close()
			}
		}
	})
}
