package runtime

import (
	"io"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/boot"
	"github.com/zap-migrate/zap/spec"
)

// TestExposed finds mounts of proc and sysfs below others.
func TestExposed(t *testing.T) {
	const table = `1 0 0:1 / / rw - rootfs rootfs rw
2 1 0:2 / /proc rw - proc proc rw
3 2 0:3 / /proc/sys/fs/binfmt_misc rw - binfmt_misc none rw
4 1 0:4 / /sys rw - sysfs sysfs rw
5 1 0:5 / /a\040b rw - tmpfs none rw
6 5 0:2 / /a\040b/proc rw - proc proc rw
7 5 0:2 /sys /a\040b/part rw - proc proc rw
8 2 0:6 / /proc rw - tmpfs none rw
`
	mounts, err := parseMountInfo(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	want := []boot.HostMount{{Place: "/proc", Full: true}, {Place: "/sys", Full: true}, {Place: "/a b"}, {Place: "/a b/proc", Full: true}, {Place: "/proc"}}
	if got := exposed(mounts); !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

// TestNoPivotHidesHost has a user namespace inside a container whose root was moved mount a proc and a sysfs of its own, as nothing of the
// host's is masked for whoever finds it in the mount namespace.
func TestNoPivotHidesHost(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *spec.Bundle){
		"plain":  func(*testing.T, *spec.Bundle) {},
		"shared": func(_ *testing.T, b *spec.Bundle) { b.Spec.Linux.RootfsPropagation = "shared" },
		"users":  withUsers,
		"hidden": func(t *testing.T, _ *spec.Bundle) { // a proc below another mount
			dir := t.TempDir()
			for _, kind := range []string{"proc", "tmpfs"} {
				if err := unix.Mount(kind, dir, kind, 0, ""); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			b := l.bundle("busybox unshare -mrpf sh -c 'mount -t proc none /proc && echo mounted proc'; busybox unshare -mrn sh -c 'mount -t sysfs none /sys && echo mounted sysfs'; test -e /proc/self && echo end")
			change(t, b)
			caps := b.Spec.Process.Capabilities
			for _, set := range []*[]string{&caps.Bounding, &caps.Permitted, &caps.Effective} {
				*set = append(*set, "CAP_SETFCAP")
			}
			before, err := readMountInfo("self")
			if err != nil {
				t.Fatal(err)
			}
			output, input := l.pipe()
			c, err := l.runtime.Run(l.ctx, "test", b, CreateOptions{Stdin: devNull(t), Stdout: input, Stderr: input, NoPivot: true})
			input.Close()
			if err != nil {
				t.Fatal(err)
			}
			defer l.remove(c)
			text, err := io.ReadAll(output)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(text); strings.Contains(got, "mounted") || strings.Count(got, "mount: ") != 2 || !strings.HasSuffix(got, "end\n") {
				t.Errorf("got %q", got)
			}
			if after, err := readMountInfo("self"); err != nil || len(exposed(after)) != len(exposed(before)) {
				t.Errorf("the host has %d, had %d: %v", len(exposed(after)), len(exposed(before)), err)
			}
		})
	}
}
