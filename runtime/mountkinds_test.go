package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/spec"
)

// withUsers gives a bundle a user namespace, and its files to that one's root.
func withUsers(t *testing.T, b *spec.Bundle) {
	t.Helper()
	if err := filepath.WalkDir(b.RootPath(), func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 100000, 100000))
	}); err != nil {
		t.Fatal(err)
	}
	openUp(t, b.RootPath())
	b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	b.Spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	b.Spec.Linux.GIDMappings = b.Spec.Linux.UIDMappings
}

// openUp lets everyone go to a directory.
func openUp(t *testing.T, dir string) {
	t.Helper()
	for ; dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && info.Mode().Perm()&0o005 != 0o005 {
			err = os.Chmod(dir, info.Mode().Perm()|0o055)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// file writes a file and all directories above it.
func file(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// wantOutput runs a bundle and compares.
func (l *lab) wantOutput(b *spec.Bundle, want string) {
	l.t.Helper()
	if out, code := l.run(b); out != want || code != 0 {
		l.t.Errorf("exit code %d\ngot  %q\nwant %q", code, out, want)
	}
}

// TestMountAttributes checks what every attribute of a mount does, alone and with those below.
func TestMountAttributes(t *testing.T) {
	source := t.TempDir()
	below := filepath.Join(source, "below")
	if err := os.Mkdir(below, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		options  string
		top, sub string // what mountinfo has to say, besides rw and relatime
	}{
		{"rbind", "rw,relatime", "rw,relatime"},
		{"rbind,ro", "ro,relatime", "rw,relatime"},
		{"rbind,rro", "ro,relatime", "ro,relatime"},
		{"rbind,rro,rw", "ro,relatime", "ro,relatime"},
		{"rbind,ro,rrw", "rw,relatime", "rw,relatime"},
		{"rbind,nosuid,nodev,noexec", "rw,nosuid,nodev,noexec,relatime", "rw,relatime"},
		{"rbind,rnosuid,rnodev,rnoexec", "rw,nosuid,nodev,noexec,relatime", "rw,nosuid,nodev,noexec,relatime"},
		{"rbind,rnosuid,rsuid,rdev,rexec", "rw,relatime", "rw,relatime"},
		{"rbind,noatime,nodiratime", "rw,noatime,nodiratime", "rw,relatime"},
		{"rbind,rnoatime,rnodiratime", "rw,noatime,nodiratime", "rw,noatime,nodiratime"},
		{"rbind,rnoatime,rdiratime,ratime", "rw,relatime", "rw,relatime"},
		{"rbind,strictatime", "rw", "rw,relatime"},
		{"rbind,rstrictatime", "rw", "rw"},
		{"rbind,rstrictatime,rnostrictatime", "rw,relatime", "rw,relatime"},
		{"rbind,rnorelatime,norelatime,rrelatime", "rw,relatime", "rw,relatime"},
		{"rbind,nosymfollow", "rw,relatime,nosymfollow", "rw,relatime"},
		{"rbind,rnosymfollow", "rw,relatime,nosymfollow", "rw,relatime,nosymfollow"},
		{"rbind,rnosymfollow,rsymfollow,symfollow", "rw,relatime", "rw,relatime"},
		{"rbind,defaults,async,loud,silent,lazytime,iversion", "rw,relatime", "rw,relatime"},
	} {
		t.Run(tt.options, func(t *testing.T) {
			l := newLab(t)
			b := l.bundle("grep ' /top' /proc/self/mountinfo")
			b.Spec.Root.Readonly = false
			b.Spec.Mounts = append(b.Spec.Mounts,
				specs.Mount{Destination: "/source", Type: "tmpfs", Source: "tmpfs"},
				specs.Mount{Destination: "/source/below", Type: "tmpfs", Source: "tmpfs"},
				// The mounts of the container itself are the source: they are found by the path that the root has on the host.
				specs.Mount{
					Destination: "/top", Source: filepath.Join(b.RootPath(), "source"), Options: strings.Split(tt.options, ","),
				})
			out, _ := l.run(b)
			got := map[string]string{}
			for line := range strings.Lines(out) {
				fields := strings.Fields(line)
				got[fields[4]] = fields[5]
			}
			if got["/top"] != tt.top || got["/top/below"] != tt.sub {
				t.Errorf("got %q and %q, want %q and %q", got["/top"], got["/top/below"], tt.top, tt.sub)
			}
		})
	}
}

// TestPropagation checks the propagation of mounts as a list of options gives it, and the root's.
func TestPropagation(t *testing.T) {
	for _, tt := range []struct{ root, options, wantRoot, want string }{
		{"", "rbind,rprivate", "", ""},
		{"", "bind,private", "", ""},
		{"", "bind,rslave", "", ""}, // nothing to be the slave of
		{"private", "rbind,shared", "", "shared"},
		{"slave", "rbind,rshared", "", "shared"},
		{"", "bind,shared,slave", "", ""},
		{"", "bind,unbindable", "", "unbindable"},
		{"", "bind,runbindable", "", "unbindable"},
		{"shared", "bind,private", "shared", ""},
		{"rshared", "bind,private", "shared", "shared"},
		{"unbindable", "bind,private", "unbindable", ""},
		{"runbindable", "bind,private", "unbindable", "unbindable"},
	} {
		t.Run(tt.root+" "+tt.options, func(t *testing.T) {
			l := newLab(t)
			b := l.bundle("grep -E ' / / | /mount ' /proc/self/mountinfo; cat /proc/self/mountinfo")
			b.Spec.Root.Readonly = false
			b.Spec.Linux.RootfsPropagation = tt.root
			b.Spec.Mounts = append(b.Spec.Mounts,
				specs.Mount{Destination: "/source", Type: "tmpfs", Source: "tmpfs", Options: []string{"private"}},
				specs.Mount{Destination: "/mount", Source: filepath.Join(b.RootPath(), "source"), Options: strings.Split(tt.options, ",")})
			out, _ := l.run(b)
			got := map[string]string{}
			for line := range strings.Lines(out) {
				before, _, _ := strings.Cut(line, " - ")
				fields := strings.Fields(before)
				kind, _, _ := strings.Cut(strings.Join(fields[6:], " "), ":")
				got[fields[4]] = kind
			}
			if got["/"] != tt.wantRoot && !(tt.wantRoot == "" && got["/"] == "master") || got["/mount"] != tt.want {
				t.Errorf("got %q and %q, want %q and %q\n%s", got["/"], got["/mount"], tt.wantRoot, tt.want, out)
			}
		})
	}
}

// TestSharedRootStaysOffTheHost has a root that is shared: the host sees none of the container's mounts, but in a volume that is shared with it.
func TestSharedRootStaysOffTheHost(t *testing.T) {
	l := newLab(t)
	volume := t.TempDir()
	for _, m := range []struct {
		source string
		flags  uintptr
	}{{volume, unix.MS_BIND}, {"", unix.MS_SHARED}} {
		if err := unix.Mount(m.source, volume, "", m.flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(volume, unix.MNT_DETACH) })
	b := l.bundle("mount -t tmpfs none /volume/inner && touch /volume/inner/made && grep -c volume/inner /proc/self/mountinfo")
	b.Spec.Root.Readonly = false
	b.Spec.Linux.RootfsPropagation = "rshared"
	b.Spec.Process.Capabilities.Bounding = append(b.Spec.Process.Capabilities.Bounding, "CAP_SYS_ADMIN")
	b.Spec.Process.Capabilities.Effective, b.Spec.Process.Capabilities.Permitted = b.Spec.Process.Capabilities.Bounding, b.Spec.Process.Capabilities.Bounding
	if err := os.Mkdir(filepath.Join(volume, "inner"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/volume", Source: volume, Options: []string{"rbind", "rshared"}})
	l.wantOutput(b, "1\n")
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(table), b.RootPath()) {
		t.Errorf("the host has a mount of the container's:\n%s", table)
	}
	if _, err := os.Stat(filepath.Join(volume, "inner/made")); err != nil {
		t.Errorf("a mount in the shared volume is not on the host: %v", err)
	}
	_ = unix.Unmount(filepath.Join(volume, "inner"), unix.MNT_DETACH)
}

// TestTmpfs checks modes, content and the file system's own options.
func TestTmpfs(t *testing.T) {
	long := strings.Repeat("1", 200) + "0:" + strings.Repeat("0", 80) // an interleave policy that is too long for fsconfig
	for _, tt := range []struct {
		name    string
		options string
		script  string
		want    string
	}{
		{"mode of the directory", "nodev", "stat -c %a /tmpfs", "710\n"},
		{"mode", "mode=1500", "stat -c %a /tmpfs", "1500\n"},
		{"read-only", "ro", "touch /tmpfs/x 2>&1; grep -c ' /tmpfs tmpfs ro,' /proc/mounts", "touch: /tmpfs/x: Read-only file system\n1\n"},
		{"empty", "size=1m", "ls -A /tmpfs; grep -c size=1024k /proc/mounts", "1\n"},
		{"sync", "sync,dirsync,nolazytime", "grep -c ' /tmpfs tmpfs rw,sync,dirsync' /proc/mounts", "1\n"},
		{"async again", "sync,async", "grep -c ' /tmpfs tmpfs rw,relatime' /proc/mounts", "1\n"},
		{"acl", "acl,noiversion,iversion", "stat -c %a /tmpfs", "1777\n"},
		{
			"copy up", "tmpcopyup,nosuid", "cd /tmpfs; stat -c '%n %F %a %u:%g' dir dir/file pipe null link; cat dir/file link; touch new && echo ok",
			"dir directory 751 3:4\ndir/file regular file 4755 5:6\npipe fifo 640 0:0\nnull character special file 604 0:0\n" +
				"link symbolic link 777 7:8\ncontent\ncontent\nok\n",
		},
		{"read-only copy up", "tmpcopyup,ro", "cat /tmpfs/dir/file; touch /tmpfs/x 2>/dev/null || echo no", "content\nno\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t)
			b := l.bundle(tt.script)
			dir := filepath.Join(b.RootPath(), "tmpfs")
			file(t, filepath.Join(dir, "dir/file"), "content\n")
			unix.Umask(0o022)
			err := errors.Join(
				os.Chmod(dir, 0o710), os.Chmod(filepath.Join(dir, "dir"), 0o751),
				os.Chown(filepath.Join(dir, "dir"), 3, 4), os.Chown(filepath.Join(dir, "dir/file"), 5, 6),
				os.Chmod(filepath.Join(dir, "dir/file"), 0o755|os.ModeSetuid),
				unix.Mkfifo(filepath.Join(dir, "pipe"), 0o640),
				unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o604, int(unix.Mkdev(1, 3))),
				os.Symlink("/tmpfs/dir/file", filepath.Join(dir, "link")), os.Lchown(filepath.Join(dir, "link"), 7, 8))
			if err != nil {
				t.Fatal(err)
			}
			b.Spec.Mounts = append(b.Spec.Mounts,
				specs.Mount{Destination: "/tmpfs", Type: "tmpfs", Source: "tmpfs", Options: strings.Split(tt.options, ",")})
			l.wantOutput(b, tt.want)
			if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
				t.Error("the image was written to")
			}
		})
	}
	t.Run("long option", func(t *testing.T) {
		l := newLab(t)
		b := l.bundle("true")
		b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mpol=bind:" + long}})
		_, err := l.runtime.Create(l.ctx, "long", b, CreateOptions{})
		if err == nil || !strings.Contains(err.Error(), "mount tmpfs on /tmp: invalid argument (config.json: mounts[7])") {
			t.Errorf("create: %v", err)
		}
		b.Spec.Mounts[len(b.Spec.Mounts)-1] = specs.Mount{
			Destination: "/tmp", Type: "overlay", Source: "overlay",
			Options: []string{"lowerdir=" + strings.Repeat("/"+strings.Repeat("./", 70), 2) + b.RootPath() + "/etc:" + b.RootPath() + "/root", "noatime"},
		}
		b.Spec.Process.Args = []string{"sh", "-c", "cat /tmp/plain; grep -c '/tmp overlay ro,noatime' /proc/mounts"}
		l.wantOutput(b, "no program\n1\n")
	})
}

// TestCopyUpForUsers fills a tmpfs of a user namespace.
func TestCopyUpForUsers(t *testing.T) {
	l := newLab(t)
	b := l.bundle("stat -c '%n %u:%g' /data /data/own /data/foreign; cat /data/own")
	file(t, filepath.Join(b.RootPath(), "data/own"), "content\n")
	withUsers(t, b)
	file(t, filepath.Join(b.RootPath(), "data/foreign"), "")
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/data", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
	l.wantOutput(b, "/data 0:0\n/data/own 0:0\n/data/foreign 65534:65534\ncontent\n")
}

// TestOddTargets mounts where symbolic links lead, whether or not it is there, and where nothing is.
func TestOddTargets(t *testing.T) {
	for _, users := range []bool{false, true} {
		t.Run(fmt.Sprintf("users %v", users), func(t *testing.T) {
			l := newLab(t)
			b := l.bundle("grep -E ' (/real|/tmp|/deep|/new|/rel)' /proc/mounts | while read a b c; do echo $b; done; " +
				"cat /etc/hosts /new/file; stat -c %a:%u /deep /deep/er /deep/er/est")
			b.Spec.Root.Readonly = false
			root := b.RootPath()
			source := filepath.Join(t.TempDir(), "file")
			file(t, source, "hosts\n")
			openUp(t, filepath.Dir(source))
			err := errors.Join(os.MkdirAll(filepath.Join(root, "real/conf"), 0o755),
				os.Symlink("/real/conf", filepath.Join(root, "conf")),
				os.Symlink("/tmp/foo/bar", filepath.Join(root, "jump")), os.Symlink("/jump/baz/hosts", filepath.Join(root, "etc/hosts")))
			if err != nil {
				t.Fatal(err)
			}
			if users {
				withUsers(t, b)
			}
			tmpfs := func(destination string) specs.Mount {
				return specs.Mount{Destination: destination, Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755"}}
			}
			b.Spec.Mounts = append(b.Spec.Mounts, tmpfs("/conf/stack"), tmpfs("/deep/er/est"), tmpfs("relative/path"),
				specs.Mount{Destination: "/etc/hosts", Source: source, Options: []string{"bind"}},
				specs.Mount{Destination: "/new/file", Source: source, Options: []string{"bind"}})
			l.wantOutput(b, "/real/conf/stack\n/deep/er/est\n/relative/path\n/tmp/foo/bar/baz/hosts\n/new/file\nhosts\nhosts\n755:0\n755:0\n755:0\n")
		})
	}
}

// TestSymlinkedRoot has a root.path that is a symbolic link.
func TestSymlinkedRoot(t *testing.T) {
	for _, propagation := range []string{"", "shared", "private"} {
		l := newLab(t)
		b := l.bundle("cat /etc/plain")
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(b.RootPath(), link); err != nil {
			t.Fatal(err)
		}
		b.Spec.Root.Path = link
		b.Spec.Linux.RootfsPropagation = propagation
		l.wantOutput(b, "no program\n")
	}
}

// TestRemount changes mounts that are there.
func TestRemount(t *testing.T) {
	l := newLab(t)
	b := l.bundle("grep -E ' (/tmp|/etc/plain|/proc) ' /proc/mounts | while read a b c d e; do echo $b $d; done")
	b.Spec.Mounts = append(b.Spec.Mounts,
		specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=755"}},
		specs.Mount{Destination: "/tmp", Type: "tmpfs", Options: []string{"remount", "size=1m", "noexec"}},
		specs.Mount{Destination: "/etc/plain", Source: filepath.Join(b.RootPath(), "etc/plain"), Options: []string{"bind"}},
		specs.Mount{Destination: "/etc/plain", Source: "none", Options: []string{"bind", "remount", "ro", "nodev"}},
		specs.Mount{Destination: "/proc", Type: "proc", Options: []string{"remount", "ro"}})
	out, _ := l.run(b)
	for _, want := range []string{"/proc ro,relatime\n", "/tmp rw,noexec,relatime,size=1024k", "/etc/plain ro,nodev,relatime"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
