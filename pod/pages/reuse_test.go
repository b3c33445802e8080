package pages_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	criuimage "github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod/pages"
)

// moveAfterRounds dumps a child whose memory went ahead into images, which has what the target got, restores it, and has it look at its memory.
func moveAfterRounds(t *testing.T, ctx context.Context, source, target *stream.Conn, pid int, images, work string, known *pages.Shadow) (sent, received pages.Stats) {
	t.Helper()
	criu := findCRIU(t)
	sender, err := pages.NewSender()
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	sender.Know(known)
	dir, err := os.Open(images)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	failed := make(chan error, 2)
	go func() {
		var err error
		sent, err = sender.Run(ctx, source)
		failed <- err
	}()
	go func() {
		var err error
		received, err = pages.Receive(ctx, target, dir, pages.Limits{})
		failed <- err
	}()
	// As in a move, the source's directory has no parent; CRIU 4.3 would look for an inventory in that.
	meta := tmpfsDir(t)
	var flags []string
	if known.Tracked() {
		if err := criuimage.SetParent(new(rpc.CriuOpts), meta, pages.Parent); err != nil {
			t.Fatal(err)
		}
		flags = []string{"--track-mem", "--prev-images-dir", pages.Parent}
	}
	if err := errors.Join(dump(ctx, criu, pid, meta, sender, flags...), <-failed, <-failed); err != nil {
		t.Fatal(err)
	}
	written, err := filepath.Glob(meta + "/*.img")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range written {
		if err := os.Rename(name, filepath.Join(images, filepath.Base(name))); err != nil {
			t.Fatal(err)
		}
	}
	restoreAndLook(t, ctx, criu, images, work)
	return sent, received
}

// TestRoundsOfAnotherProcess has the process whose memory went ahead end, and another with its id take its place, whose memory is different.
func TestRoundsOfAnotherProcess(t *testing.T) {
	findCRIU(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	images, work := tmpfsDir(t), [2]string{t.TempDir(), t.TempDir()}
	first, second := startChild(t, work[0], "setarch", "-R"), startChild(t, work[1], "setarch", "-R") // the same addresses
	// The second has other content where the first had its own.
	if err := os.WriteFile(filepath.Join(work[1], "change"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, filepath.Join(work[1], "changed"))
	id := uint32(second.Process.Pid)
	source, target := connPair(t)
	var rounds []pages.Round
	shadow, err := ahead(t, ctx, source, target, images, &pages.Rounds{
		Processes: func() ([]pages.Process, error) {
			if len(rounds) == 0 {
				return []pages.Process{{PID: first.Process.Pid, Image: id}}, nil
			}
			return []pages.Process{{PID: second.Process.Pid, Image: id}}, nil
		},
		Tracked: softDirty(t), // so that the second round leaves out what the other has never written to
		Hold:    atOnce,
		Again: func(r pages.Round) (bool, error) {
			if rounds = append(rounds, r); len(rounds) == 1 {
				_ = first.Process.Kill()
				for first.Process.Signal(unix.Signal(0)) == nil { // startChild waits for it
					time.Sleep(time.Millisecond)
				}
			}
			return len(rounds) < 2, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	moveAfterRounds(t, ctx, source, target, second.Process.Pid, images, work[1], shadow)
}

// softDirty says whether this kernel tracks what a process writes to.
func softDirty(t *testing.T) bool {
	t.Helper()
	page, err := unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(page)
	page[0] = 1
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var entry [8]byte
	if _, err := f.ReadAt(entry[:], int64(uintptr(unsafe.Pointer(&page[0]))/uintptr(os.Getpagesize())*8)); err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.Uint64(entry[:])&(1<<55) != 0
}

// TestTrackedRounds has the kernel say what was written to: later rounds look at nothing else, and the pod is whole.
func TestTrackedRounds(t *testing.T) {
	findCRIU(t)
	if !softDirty(t) {
		t.Skip("this kernel does not track what is written to (soft-dirty)")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	images, work := tmpfsDir(t), t.TempDir()
	process := startChild(t, work)
	source, target := connPair(t)
	var rounds []pages.Round
	shadow, err := ahead(t, ctx, source, target, images, &pages.Rounds{
		Processes: func() ([]pages.Process, error) {
			return []pages.Process{{PID: process.Process.Pid, Image: uint32(process.Process.Pid)}}, nil
		},
		Tracked: true,
		Hold: func(context.Context) (func() error, error) {
			stop := process.Process.Signal(unix.SIGSTOP)
			for stop == nil && !strings.Contains(readFile(t, fmt.Sprintf("/proc/%d/stat", process.Process.Pid)), ") T ") {
				time.Sleep(time.Millisecond)
			}
			return func() error { return process.Process.Signal(unix.SIGCONT) }, stop
		},
		Again: func(r pages.Round) (bool, error) {
			if rounds = append(rounds, r); len(rounds) == 1 {
				if err := os.WriteFile(filepath.Join(work, "change"), nil, 0o600); err != nil {
					return false, err
				}
				waitFor(t, filepath.Join(work, "changed"))
			}
			return len(rounds) < 3, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range rounds {
		t.Logf("round %d: %+v", i+1, r)
	}
	// The child changed a quarter, of which some pages stay zeros.
	if r := rounds[1]; r.Pages > rounds[0].Pages*2/5 || r.Clean < rounds[0].Pages/2 || r.Bytes() < childSize/8 {
		t.Errorf("the second round after the change of a quarter: %+v", r)
	}
	if r := rounds[2]; r.Pages > rounds[0].Pages/8 || r.Clean < rounds[0].Pages*3/4 {
		t.Errorf("the third round, with nothing changed: %+v", r)
	}
	sent, _ := moveAfterRounds(t, ctx, source, target, process.Process.Pid, images, work, shadow)
	if sent.Bytes > childSize/8 || sent.KnownPages < childSize/4/page {
		t.Errorf("the dump sent %+v", sent)
	}
}
