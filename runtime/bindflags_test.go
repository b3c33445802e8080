package runtime

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestBindFlags compares what a bind mount is told with what it becomes, from a source with flags of its own. In a user namespace these are
// locked.
func TestBindFlags(t *testing.T) {
	const (
		all   = unix.MS_RDONLY | unix.MS_NOEXEC | unix.MS_NOSYMFOLLOW
		times = unix.MS_NODIRATIME | unix.MS_NOATIME
	)
	for _, tt := range []struct {
		flags         uintptr
		options       string
		plain, locked string // empty for a refusal
	}{
		{all, "bind", "ro,noexec,relatime,nosymfollow", "ro,noexec,relatime,nosymfollow"},
		{all, "bind,dev", "rw,relatime", "ro,noexec,relatime"},
		{all, "bind,nosuid,rprivate", "rw,nosuid,relatime", "ro,nosuid,noexec,relatime"},
		{all, "bind,rw", "rw,relatime", ""},
		{unix.MS_NODEV, "bind,ro", "ro,relatime", "ro,nodev,relatime"},
		{times, "bind,ro,atime", "ro,noatime,nodiratime", "ro,noatime,nodiratime"},
		{times, "bind,noatime", "rw,noatime", "rw,noatime,nodiratime"},
		{times, "bind,relatime", "rw,relatime", ""},
		{times, "bind,strictatime", "rw", ""},
		{unix.MS_RELATIME, "bind,nodiratime", "rw,nodiratime,relatime", ""},
	} {
		for _, users := range []bool{false, true} {
			name, want := "plain", tt.plain
			if users {
				name, want = "users", tt.locked
			}
			t.Run(tt.options+" "+name, func(t *testing.T) {
				l := newLab(t)
				source := t.TempDir()
				if err := unix.Mount("none", source, "tmpfs", 0, "mode=755"); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = unix.Unmount(source, unix.MNT_DETACH) })
				if err := unix.Mount("", source, "", unix.MS_REMOUNT|unix.MS_BIND|tt.flags, ""); err != nil {
					t.Fatal(err)
				}
				b := l.bundle("grep ' /volume ' /proc/self/mountinfo")
				b.Spec.Root.Readonly = false
				if users {
					withUsers(t, b)
					openUp(t, source)
				}
				b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/volume", Source: source, Options: strings.Split(tt.options, ",")})
				if want == "" {
					l.wantRefused(b, "on /volume: operation not permitted (config.json: mounts[7])")
					return
				}
				output, err := l.try(b, nil)
				if fields := strings.Fields(output); err != nil || len(fields) < 6 || fields[5] != want {
					t.Errorf("want %s, got %q, %v", want, output, err)
				}
			})
		}
	}
}
