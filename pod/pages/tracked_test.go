package pages_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/pod/pages"
)

// atOnce is a Rounds.Hold for processes that write to nothing that is looked at.
func atOnce(context.Context) (func() error, error) { return func() error { return nil }, nil }

// region maps n pages with random content and returns them with their address.
func region(t *testing.T, n int) (memory []byte, address uint64) {
	t.Helper()
	memory, err := unix.Mmap(-1, 0, n*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(memory) })
	copy(memory, random(rand.New(rand.NewPCG(7, uint64(n))), n))
	return memory, uint64(uintptr(unsafe.Pointer(&memory[0])))
}

// TestCleanPages has CRIU leave out what nobody has written to since the rounds, and wants each page of it in the parent's images or in these:
// also those that are zeros, that the target never got, or that went away and came back between.
func TestCleanPages(t *testing.T) {
	const self = 3<<8 | 1
	dir := tmpfsDir(t)
	ahead1, address1 := region(t, 700)
	clear(ahead1[100*page : 103*page])
	lost, addressLost := region(t, 4)
	source, target := connPair(t)
	rounds := 0
	shadow, err := ahead(t, t.Context(), source, target, dir, &pages.Rounds{
		Processes: own, Tracked: true, Hold: atOnce,
		Again: func(pages.Round) (bool, error) {
			clear(lost) // the target has what it was before
			rounds++
			return rounds < 2, nil
		},
	})
	if err != nil || !shadow.Tracked() {
		t.Fatalf("%v, tracked: %v", err, shadow.Tracked())
	}
	late, addressLate := region(t, 600) // more than a batch
	sent := random(rand.New(rand.NewPCG(1, 9)), 3)

	want := images{}
	want.open("pagemap-3.img", 65537)
	const inParent = 1
	want.add("pagemap-3.img", 65537, inParent, address1, 100, nil)
	want.add("pagemap-3.img", 65537, present, address1+100*page, 3, ahead1[100*page:103*page])
	want.add("pagemap-3.img", 65537, inParent, address1+103*page, 597, nil)
	want.add("pagemap-3.img", 65537, present, addressLate, 600, late)
	want.add("pagemap-3.img", 65537, present, 0x1000, 3, sent)
	if softDirty(t) { // else the kernel does not say that these were written to
		want.add("pagemap-3.img", 65537, present, addressLost, 4, lost)
	}
	o := outcome{source: source, target: target}
	o.run(t, t.Context(), dir, pages.Limits{}, func(c *fakeCRIU) int32 {
		c.write(header(open2, 0, 0, self))
		if got := c.read(1); c.err == nil && got[0] != 1 {
			c.err = errors.New("was told of no parent")
		}
		c.write(header(hole, 700, address1, self))
		c.add(1, addressLate, self, nil, 600)
		c.add(present, 0x1000, self, sent, 3)
		if softDirty(t) {
			c.write(header(hole, 4, addressLost, self))
		}
		return c.close()
	}, shadow)
	if o.sendErr != nil || o.receiveErr != nil || o.criuErr != nil || o.sent != o.received || o.sent.KnownPages != 697 {
		t.Errorf("%+v", o)
	}
	for name, content := range want {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, want %d; %v", name, len(got), len(content), err)
		}
	}
}

// TestMovedPages moves memory to where other memory was that the target has, with its page tables, in which nothing says that it was written to.
func TestMovedPages(t *testing.T) {
	if !softDirty(t) {
		t.Skip("this kernel does not track what is written to (soft-dirty)")
	}
	const self, block, size = 3<<8 | 1, 2 << 20, 2 << 20
	for _, last := range []int{1, 2} {
		all, err := unix.Mmap(-1, 0, 4*block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Munmap(all)
		if err := unix.Madvise(all, unix.MADV_NOHUGEPAGE); err != nil {
			t.Fatal(err)
		}
		skip := int(-uintptr(unsafe.Pointer(&all[0])) % block) // to where a page table begins
		from, to := all[skip:skip+size], all[skip+block:skip+block+size]
		copy(from, random(rand.New(rand.NewPCG(8, 8)), size/page))
		copy(to, random(rand.New(rand.NewPCG(9, 9)), size/page))
		address := uint64(uintptr(unsafe.Pointer(&to[0])))

		dir := tmpfsDir(t)
		source, target := connPair(t)
		var rounds []pages.Round
		shadow, err := ahead(t, t.Context(), source, target, dir, &pages.Rounds{
			Processes: own, Tracked: true, Hold: atOnce,
			Again: func(r pages.Round) (bool, error) {
				if rounds = append(rounds, r); len(rounds) > 1 {
					return false, nil
				}
				_, _, err := unix.Syscall6(unix.SYS_MREMAP, uintptr(unsafe.Pointer(&from[0])), size, size,
					unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, uintptr(unsafe.Pointer(&to[0])), 0)
				if err != 0 {
					return false, err
				}
				return last > 1, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		o := outcome{source: source, target: target}
		o.run(t, t.Context(), dir, pages.Limits{}, func(c *fakeCRIU) int32 {
			c.write(header(open2, 0, 0, self))
			c.read(1)
			c.write(header(hole, size/page, address, self))
			return c.close()
		}, shadow)
		if o.sendErr != nil || o.receiveErr != nil || o.criuErr != nil {
			t.Fatalf("%+v", o)
		}
		if last == 1 {
			want := images{}
			want.open("pagemap-3.img", 65537)
			want.add("pagemap-3.img", 65537, present, address, size/page, to)
			for name, content := range want {
				if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, content) {
					t.Errorf("moved after the last round: %s: %d bytes, want %d; %v", name, len(got), len(content), err)
				}
			}
		} else if rounds[1].Pages < size/int64(page) || o.sent.KnownPages != size/int64(page) {
			t.Errorf("moved between rounds: %+v, %+v", rounds, o.sent)
		}
	}
}

// TestCleanPagesOfAStranger wants a CRIU that leaves out pages of a process that nobody knows to be refused.
func TestCleanPagesOfAStranger(t *testing.T) {
	o := channel(t, t.Context(), t.TempDir(), pages.Limits{}, func(c *fakeCRIU) int32 {
		c.open(3<<8 | 1)
		c.write(header(hole, 1, 0x1000, 3<<8|1))
		return c.close()
	})
	if o.sendErr == nil || o.receiveErr == nil || o.status == 0 && o.criuErr == nil {
		t.Errorf("%+v", o)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

// TestHoldFails wants rounds to end with what went wrong with the processes: stopping them, or letting them run again.
func TestHoldFails(t *testing.T) {
	stuck := errors.New("stuck")
	for name, hold := range map[string]func(context.Context) (func() error, error){
		"stop":    func(context.Context) (func() error, error) { return nil, stuck },
		"release": func(context.Context) (func() error, error) { return func() error { return stuck }, nil },
	} {
		source, target := connPair(t)
		_, err := ahead(t, t.Context(), source, target, tmpfsDir(t), &pages.Rounds{Processes: own, Tracked: true, Hold: hold, Again: forRounds(1)})
		if !errors.Is(err, stuck) {
			t.Errorf("%s: ended with %v", name, err)
		}
	}
}
