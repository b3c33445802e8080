package runtime

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/spec"
)

// images returns the options for images in a directory of the test's own.
func (l *lab) images() ImageOptions {
	l.t.Helper()
	binary, err := criu.Find(l.ctx, "")
	if err != nil {
		l.t.Skip(err)
	}
	dir := l.t.TempDir()
	return ImageOptions{CRIU: binary, Cache: filepath.Join(dir, "cache"), Images: filepath.Join(dir, "images"), Work: filepath.Join(dir, "work")}
}

// counter is a program that answers each line with the number of lines so far.
const counter = `i=0; while read line; do i=$((i+1)); echo $i $line; done`

// talk is a container that counts, and the ends of its pipes.
type talk struct {
	container *Container
	in        *os.File
	out       *bufio.Reader
}

// talk makes a container that is removed with the test.
func (l *lab) talk(make func(o CreateOptions) (*Container, error)) *talk {
	l.t.Helper()
	var c *Container
	k := l.converse(func(o CreateOptions) (err error) {
		c, err = make(o)
		return err
	})
	k.container = c
	l.t.Cleanup(func() { l.remove(c) })
	return k
}

// converse has make start something with pipes as its standard streams.
func (l *lab) converse(make func(o CreateOptions) error) *talk {
	l.t.Helper()
	stdin, in := l.pipe()
	out, stdout := l.pipe()
	err := make(CreateOptions{Stdin: stdin, Stdout: stdout, Stderr: stdout})
	stdin.Close()
	stdout.Close()
	if err != nil {
		l.t.Fatal(err)
	}
	return &talk{in: in, out: bufio.NewReader(out)}
}

func (k *talk) say(t *testing.T, word, want string) {
	t.Helper()
	if _, err := fmt.Fprintln(k.in, word); err != nil {
		t.Fatal(err)
	}
	got, err := k.out.ReadString('\n')
	if err != nil || strings.TrimSpace(got) != want {
		t.Fatalf("%q was answered %q, %v; want %q", word, got, err, want)
	}
}

// TestCheckpointRestore saves a container twice, each time with other pipes, binds and limits, and looks that it goes on where it was.
func TestCheckpointRestore(t *testing.T) {
	l := newLab(t)
	images := l.images()
	b := l.bundle(counter)
	shared := t.TempDir()
	b.Spec.Mounts = append(b.Spec.Mounts,
		specs.Mount{Destination: "/link/data", Type: "bind", Source: shared, Options: []string{"bind"}},
		specs.Mount{Destination: "/link/data/deep/er", Type: "bind", Source: t.TempDir(), Options: []string{"bind"}})
	if err := os.Mkdir(filepath.Join(b.RootPath(), "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/real", filepath.Join(b.RootPath(), "link")); err != nil {
		t.Fatal(err)
	}
	k := l.talk(func(o CreateOptions) (*Container, error) { return l.runtime.Run(l.ctx, "one", b, o) })
	k.say(t, "a", "1 a")
	// Not sleep: CRIU restores a sleep interrupted (EINTR), and busybox's ends with that since 1.36.
	l.exec(k.container, "echo kept > /dev/shm/file; busybox tail -f /dev/null < /dev/null > /dev/null 2>&1 &")
	for round, id := range []string{"one", "two"} {
		if round == 1 { // CRI-O saves what it has paused
			if cg, err := k.container.Cgroup(); err != nil || cg.Freeze(l.ctx) != nil {
				t.Fatal("pause the container: ", err)
			}
		}
		if err := k.container.Checkpoint(l.ctx, CheckpointOptions{ImageOptions: images}); err != nil {
			t.Fatal(err)
		}
		l.gone(k.container, b)
		for _, name := range []string{"inventory.img", descriptorsName} {
			if _, err := os.Stat(filepath.Join(images.Images, name)); err != nil {
				t.Error(err)
			}
		}
		// Another container: other cgroup and limits, and a root file system without the places of its mounts.
		limit := int64(64 + round)
		b.Spec.Linux.CgroupsPath += "-" + id
		b.Spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}
		for _, dir := range []string{filepath.Join(shared, "deep"), filepath.Join(b.RootPath(), "real/data")} {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
		k = l.talk(func(o CreateOptions) (*Container, error) { return l.runtime.Restore(l.ctx, id, b, o, images) })
		k.say(t, "b", fmt.Sprintf("%d b", round+2))
		l.restored(k.container, limit)
	}
}

// TestCheckpointOfRunc restores what runc has saved, and has runc restore what zap saves then.
func TestCheckpointOfRunc(t *testing.T) {
	l := newLab(t)
	images := l.images()
	path, err := exec.LookPath("runc")
	if err != nil {
		t.Skip("needs runc (make deps): ", err)
	}
	b := l.bundle(counter)
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: t.TempDir(), Options: []string{"bind"}})
	data, err := json.Marshal(b.Spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(b.Dir, "config.json"), data, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	runc := func(o CreateOptions, args ...string) error {
		ctx, cancel := context.WithTimeout(l.ctx, 20*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, path, append([]string{"--root", root, "--log", filepath.Join(root, "log")}, args...)...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = o.Stdin, o.Stdout, o.Stderr
		cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(images.CRIU.Path)+":"+os.Getenv("PATH")) // it looks for criu there
		if err := cmd.Run(); err != nil {
			text, _ := os.ReadFile(filepath.Join(root, "log"))
			criu, _ := os.ReadFile(filepath.Join(images.Work, args[0]+".log"))
			return fmt.Errorf("runc %s: %w: %s\n%s", args[0], err, text, criu[max(0, len(criu)-2000):])
		}
		return nil
	}
	t.Cleanup(func() {
		for _, id := range []string{"theirs", "again"} {
			_ = exec.Command(path, "--root", root, "delete", "--force", id).Run()
		}
	})
	paths := []string{"--image-path", images.Images, "--work-path", images.Work}
	k := l.converse(func(o CreateOptions) error { return runc(o, "run", "--detach", "--bundle", b.Dir, "theirs") })
	k.say(t, "a", "1 a")
	if err := runc(CreateOptions{}, append(append([]string{"checkpoint"}, paths...), "theirs")...); err != nil {
		t.Fatal(err)
	}
	k = l.talk(func(o CreateOptions) (*Container, error) { return l.runtime.Restore(l.ctx, "ours", b, o, images) })
	k.say(t, "b", "2 b")
	if err := os.RemoveAll(images.Images); err != nil {
		t.Fatal(err)
	}
	if err := k.container.Checkpoint(l.ctx, CheckpointOptions{ImageOptions: images}); err != nil {
		t.Fatal(err)
	}
	k = l.converse(func(o CreateOptions) error {
		return runc(o, append(append([]string{"restore", "--detach", "--bundle", b.Dir}, paths...), "again")...)
	})
	k.say(t, "c", "3 c")
}

// gone wants nothing of a container that was saved to be left.
func (l *lab) gone(c *Container, b *spec.Bundle) {
	l.t.Helper()
	if _, err := l.runtime.Load(c.ID()); !errors.Is(err, ErrNotExist) {
		l.t.Errorf("the container after its checkpoint: %v, want %v", err, ErrNotExist)
	}
	for _, tree := range []string{"/sys/fs/cgroup/*", "/sys/fs/cgroup"} {
		if left, _ := filepath.Glob(tree + b.Spec.Linux.CgroupsPath); len(left) > 0 {
			l.t.Errorf("cgroups are left: %v", left)
		}
	}
}

// restored looks at a restored container as its users do.
func (l *lab) restored(c *Container, limit int64) {
	l.t.Helper()
	loaded, err := l.runtime.Load(c.ID())
	if err != nil {
		l.t.Fatal(err)
	}
	if s := loaded.OCIState(); s.Status != specs.StateRunning || s.Pid == 0 {
		l.t.Errorf("state %+v", s)
	}
	namespaces := `for n in cgroup ipc mnt net pid time user uts; do readlink /proc/%s/ns/$n; done`
	inside, _ := l.exec(loaded, fmt.Sprintf(namespaces, "1"))
	added, _ := l.exec(loaded, fmt.Sprintf(namespaces, "self"))
	if inside != added || !strings.Contains(inside, "time:[") {
		l.t.Errorf("a process that is added is in\n%sthe first process in\n%s", added, inside)
	}
	if got, _ := l.exec(loaded, "cat /dev/shm/file; ls -d /link/data/deep/er; ps | grep -c 'tail -[f]'"); got != "kept\n/link/data/deep/er\n1\n" {
		l.t.Errorf("in the container: %q", got)
	}
	own := "for f in pids.max pids/pids.max; do [ ! -e /sys/fs/cgroup/$f ] || cat /sys/fs/cgroup/$f; done"
	if got, _ := l.exec(loaded, own); got != fmt.Sprintln(limit) {
		l.t.Errorf("the container sees the limit %q of its cgroup, want %d", got, limit)
	}
	cg, err := loaded.Cgroup()
	if err != nil {
		l.t.Fatal(err)
	}
	dir := cg.Paths()["pids"]
	if dir == "" {
		dir = cg.Paths()[""]
	}
	if data, _ := os.ReadFile(filepath.Join(dir, "pids.max")); strings.TrimSpace(string(data)) != fmt.Sprint(limit) {
		l.t.Errorf("pids.max is %q, want %d", data, limit)
	}
	if pids, err := cg.Procs(); err != nil || !slices.Contains(pids, loaded.State().Pid) {
		l.t.Errorf("the cgroup has %v, %v; want %d among them", pids, err, loaded.State().Pid)
	}
}

// TestCheckpointLeaves leaves a container running, and another paused, as they were.
func TestCheckpointLeaves(t *testing.T) {
	l := newLab(t)
	images := l.images()
	b := l.bundle(counter)
	k := l.talk(func(o CreateOptions) (*Container, error) { return l.runtime.Run(l.ctx, "one", b, o) })
	leave := CheckpointOptions{ImageOptions: images, LeaveRunning: true}
	if err := k.container.Checkpoint(l.ctx, leave); err != nil {
		t.Fatal(err)
	}
	if got := k.container.Status(); got != specs.StateRunning {
		t.Errorf("status %s, want running", got)
	}
	k.say(t, "a", "1 a")
	cg, err := k.container.Cgroup()
	if err != nil {
		t.Fatal(err)
	}
	if err := cg.Freeze(l.ctx); err != nil {
		t.Fatal(err)
	}
	if err := k.container.Checkpoint(l.ctx, leave); err != nil {
		t.Fatal(err)
	}
	if got := k.container.Status(); got != StatePaused {
		t.Errorf("status %s, want paused", got)
	}
	if err := cg.Thaw(l.ctx); err != nil {
		t.Fatal(err)
	}
	k.say(t, "b", "2 b")
}

// TestCheckpointFails has CRIU refuse, at its checks and in the middle, and looks that the container goes on.
func TestCheckpointFails(t *testing.T) {
	l := newLab(t)
	images := l.images()
	b := l.bundle(counter)
	k := l.talk(func(o CreateOptions) (*Container, error) { return l.runtime.Run(l.ctx, "one", b, o) })
	for name, change := range map[string]func(o *CheckpointOptions){
		"parent": func(o *CheckpointOptions) { o.Parent = "/absolute" },
		"mode":   func(o *CheckpointOptions) { o.CgroupsMode = "wrong" },
		"server": func(o *CheckpointOptions) { o.PageServer = "127.0.0.1:1" }, // where nobody listens
	} {
		o := CheckpointOptions{ImageOptions: images}
		change(&o)
		if err := k.container.Checkpoint(l.ctx, o); err == nil {
			t.Fatalf("%s: the checkpoint succeeded", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
		if got := k.container.Status(); got != specs.StateRunning {
			t.Errorf("%s: status %s, want running", name, got)
		}
	}
	k.say(t, "a", "1 a")
}

// TestPreDump wants a clear word where the kernel can't note what changes in memory, and two checkpoints in a row where it can:
// with memory that CRIU 4.3 restores from a parent's images only where the images say so.
func TestPreDump(t *testing.T) {
	l := newLab(t)
	images := l.images()
	b := l.bundle(counter)
	installReserved(t, b.RootPath())
	k := l.talk(func(o CreateOptions) (*Container, error) { return l.runtime.Run(l.ctx, "one", b, o) })
	k.say(t, "a", "1 a")
	l.reserve(k.container)
	first := images
	first.Images = filepath.Join(filepath.Dir(images.Images), "first")
	err := k.container.Checkpoint(l.ctx, CheckpointOptions{ImageOptions: first, PreDump: true})
	if errors.Is(err, ErrFeature) {
		if !strings.Contains(err.Error(), "MemTrack") {
			t.Errorf("the error says not what is missing: %v", err)
		}
		k.say(t, "b", "2 b")
		t.Skip("needs a kernel with soft-dirty tracking for the rest (make test-guest has one)")
	}
	if err != nil {
		t.Fatal(err)
	}
	k.say(t, "b", "2 b")
	images.Parent = "../first"
	if err := k.container.Checkpoint(l.ctx, CheckpointOptions{ImageOptions: images}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(images.Images, "parent")); err != nil {
		t.Errorf("the images have no parent: %v", err)
	}
	k = l.talk(func(o CreateOptions) (*Container, error) { return l.runtime.Restore(l.ctx, "one", b, o, images) })
	k.say(t, "c", "3 c")
	l.reserved(k.container)
}

// TestRestoreFails restores what does not fit and wants nothing to be left.
func TestRestoreFails(t *testing.T) {
	l := newLab(t)
	images := l.images()
	b := l.bundle(counter)
	b.Spec.Mounts = append(b.Spec.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: t.TempDir(), Options: []string{"bind"}})
	k := l.talk(func(o CreateOptions) (*Container, error) { return l.runtime.Run(l.ctx, "one", b, o) })
	if err := k.container.Checkpoint(l.ctx, CheckpointOptions{ImageOptions: images}); err != nil {
		t.Fatal(err)
	}
	null := devNull(t)
	restore := func(b *spec.Bundle) error {
		c, err := l.runtime.Restore(l.ctx, "two", b, CreateOptions{Stdin: null, Stdout: null, Stderr: null}, images)
		if err == nil {
			l.remove(c)
			t.Fatal("the restore succeeded")
		}
		l.gone(&Container{runtime: l.runtime, state: &State{ID: "two"}}, b)
		return err
	}
	other := *b.Spec
	other.Mounts = other.Mounts[:len(other.Mounts)-1]
	if err := restore(&spec.Bundle{Dir: b.Dir, Spec: &other}); !strings.Contains(err.Error(), "mount /data") {
		t.Errorf("without a mount: %v", err)
	}
	hooked := *b.Spec
	hooked.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/false"}}}
	if err := restore(&spec.Bundle{Dir: b.Dir, Spec: &hooked}); !strings.Contains(err.Error(), "config.json: hooks.createRuntime[0]") {
		t.Errorf("with a failing hook: %v", err)
	}
}

// TestParseTCP reads what the kernel writes about a connection of each family.
func TestParseTCP(t *testing.T) {
	rows, err := parseTCP(strings.NewReader(`  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 123 1 0 100 0 0 10 0
   1: 00000000000000000000000001000000:1F90 0000000000000000FFFF00000100007F:C350 01 00000000:00000000 00:00000000 00000000 0 0 456 1
`))
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort
	want := []tcpRow{
		{ends: network.Connection{Local: at("127.0.0.1:6379"), Remote: at("0.0.0.0:0")}, state: tcpListen, inode: "123"},
		{ends: network.Connection{Local: at("[::1]:8080"), Remote: at("[::ffff:127.0.0.1]:50000")}, state: "01", inode: "456"},
	}
	if !slices.Equal(rows, want) {
		t.Errorf("got %v, want %v", rows, want)
	}
}
