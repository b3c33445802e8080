package migrate

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/network/stream"
)

// frailDisk is an ext4 of its own whose power can be cut.
type frailDisk struct {
	t     *testing.T
	image string
	dir   string // where it is mounted
}

func newFrailDisk(t *testing.T) *frailDisk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a file system")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("needs mkfs.ext4")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("needs loop devices")
	}
	base := t.TempDir()
	d := &frailDisk{t: t, image: filepath.Join(base, "image"), dir: filepath.Join(base, "disk")}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d.run("truncate", "-s", "64M", d.image)
	d.run("mkfs.ext4", "-q", "-F", d.image)
	d.mount()
	t.Cleanup(func() { _ = unix.Unmount(d.dir, unix.MNT_DETACH) })
	return d
}

func (d *frailDisk) run(args ...string) {
	d.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		d.t.Fatalf("%v: %v: %s", args, err, out)
	}
}

func (d *frailDisk) mount() { d.t.Helper(); d.run("mount", "-o", "loop", d.image, d.dir) }

// cut mounts, in the disk's place, what had been written to it: nothing that was only in memory.
func (d *frailDisk) cut() {
	d.t.Helper()
	after := d.image + "-after"
	d.run("cp", "--sparse=always", d.image, after)
	if err := unix.Unmount(d.dir, 0); err != nil {
		d.t.Fatal(err)
	}
	d.image = after
	d.mount()
}

// journalled does to the disk what the move's next phase does: what was renamed before is durable then.
func (d *frailDisk) journalled() {
	d.t.Helper()
	dir := filepath.Join(d.dir, "pod")
	if err := os.Mkdir(dir, 0o700); err != nil {
		d.t.Fatal(err)
	}
	j, err := NewJournal(dir, Header{Migration: "m", Pod: "pod", Side: "target", Started: time.Now()})
	if err != nil {
		d.t.Fatal(err)
	}
	j.Close()
}

// wantWhole wants the layer to be found on the disk with all of its content, if it must be, or else at least not with another.
func (d *frailDisk) wantWhole(digest string, must bool) {
	d.t.Helper()
	found := findLayer(d.dir, digest)
	if found == "" {
		if must {
			d.t.Error("the layer is not there")
		}
		return
	}
	if got, err := stream.Digest(found); err != nil || got != digest {
		d.t.Errorf("the layer %s has the digest %s, %v", digest, got, err)
	}
}

// TestLayerOutlivesPowerCut cuts the power right after a layer was taken in: a later move must not find files of the right size there that
// are empty within.
func TestLayerOutlivesPowerCut(t *testing.T) {
	d := newFrailDisk(t)
	dir, digest := layer(t, string(make([]byte, 1<<20))+"hello")
	if err := sendLayer(t, d.dir, dir, digest, []string{digest}); err != nil {
		t.Fatal(err)
	}
	d.journalled()
	d.cut()
	d.wantWhole(digest, true)
}

// TestReferenceOutlivesPowerCut cuts the power after a directory of this host was identified that somebody had just made.
func TestReferenceOutlivesPowerCut(t *testing.T) {
	d := newFrailDisk(t)
	dir := filepath.Join(d.dir, "rootfs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	// As tar and stream.Receive do it: the size is durable with the next journal of the file system, what is in the file is not.
	if _, err := file.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	file.Close()
	l := identified(t, d.dir, dir, nil)
	d.journalled()
	d.cut()
	d.wantWhole(l.Digest, false)
}
