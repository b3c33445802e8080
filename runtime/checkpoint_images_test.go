package runtime

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
)

// addressSpace is an image with one mapping, as CRIU 4.3 writes them: reserved with MAP_NORESERVE, not to be accessed, and marked as one that
// the kernel does not charge for.
func addressSpace() []byte {
	var mapping, entry []byte
	for i, value := range []uint64{0x7f40b9c00000, 0x7f40b9c01000, 0, 0, 0, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE, 1<<18 | 0x201} {
		mapping = protowire.AppendVarint(protowire.AppendTag(mapping, protowire.Number(i+1), protowire.VarintType), value)
	}
	entry = protowire.AppendBytes(protowire.AppendTag(entry, 14, protowire.BytesType), mapping)
	image := binary.LittleEndian.AppendUint32(nil, 0x54564319)
	image = binary.LittleEndian.AppendUint32(image, 0x57492820)
	image = binary.LittleEndian.AppendUint32(image, uint32(len(entry)))
	return append(image, entry...)
}

// mappingStatus is the field status of the only mapping of an image.
func mappingStatus(t *testing.T, image []byte) (status uint64) {
	t.Helper()
	number, kind, n := protowire.ConsumeTag(image[12:])
	mapping, m := protowire.ConsumeBytes(image[12+n:])
	if number != 14 || kind != protowire.BytesType || m < 0 {
		t.Fatalf("no mapping in %x", image)
	}
	for len(mapping) > 0 {
		number, _, n := protowire.ConsumeTag(mapping)
		value, m := protowire.ConsumeVarint(mapping[max(n, 0):])
		if n < 0 || m < 0 {
			t.Fatalf("a broken mapping in %x", image)
		}
		if number == 7 {
			status = value // the last one counts
		}
		mapping = mapping[n+m:]
	}
	return status
}

// TestCheckpointAccountsReserved looks that a checkpoint leaves no images that CRIU 4.3 can't restore with a parent's: another process's
// image lies where they are made, with the mark that only that version writes.
func TestCheckpointAccountsReserved(t *testing.T) {
	l := newLab(t)
	images := l.images()
	b := l.bundle(counter)
	installReserved(t, b.RootPath())
	k := l.talk(func(o CreateOptions) (*Container, error) { return l.runtime.Run(l.ctx, "one", b, o) })
	k.say(t, "a", "1 a")
	l.reserve(k.container)
	path := filepath.Join(images.Images, "mm-99999.img")
	if err := os.MkdirAll(images.Images, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, addressSpace(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.container.Checkpoint(l.ctx, CheckpointOptions{ImageOptions: images}); err != nil {
		t.Fatal(err)
	}
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := mappingStatus(t, image); got != 0x201 {
		t.Errorf("status %#x, want it without the mark, 0x201", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	k = l.talk(func(o CreateOptions) (*Container, error) { return l.runtime.Restore(l.ctx, "one", b, o, images) })
	k.say(t, "b", "2 b")
	l.reserved(k.container)
}

// TestCheckpointSpoiled has a checkpoint that can't finish its images: the container goes on.
func TestCheckpointSpoiled(t *testing.T) {
	l := newLab(t)
	images := l.images()
	b := l.bundle(counter)
	k := l.talk(func(o CreateOptions) (*Container, error) { return l.runtime.Run(l.ctx, "one", b, o) })
	k.say(t, "a", "1 a")
	if err := os.MkdirAll(images.Images, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(images.Images, "mm-99999.img"), []byte("no image"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.container.Checkpoint(l.ctx, CheckpointOptions{ImageOptions: images}); err == nil {
		t.Error("a checkpoint whose images can't be finished succeeded")
	}
	if got := k.container.Status(); got != specs.StateRunning {
		t.Errorf("status %s, want running", got)
	}
	k.say(t, "b", "2 b")
}
