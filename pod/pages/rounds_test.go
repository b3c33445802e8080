package pages_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod/pages"
)

// ahead runs rounds from a process into dir, which gets the images of the parent.
func ahead(t *testing.T, ctx context.Context, source, target *stream.Conn, dir string, r *pages.Rounds) (*pages.Shadow, error) {
	t.Helper()
	parent := filepath.Join(dir, pages.Parent)
	if err := os.Mkdir(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := os.Open(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	received := make(chan error, 1)
	go func() { received <- pages.ReceiveRounds(ctx, target, d, pages.Limits{}) }()
	shadow, err := r.Run(ctx, source)
	return shadow, errors.Join(err, <-received)
}

// TestRoundsBeforeADump sends the memory of a running program ahead, lets it change some, dumps it, restores it, and has it look.
func TestRoundsBeforeADump(t *testing.T) {
	findCRIU(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	work, images := t.TempDir(), tmpfsDir(t)
	process := startChild(t, work)
	source, target := connPair(t)
	var rounds []pages.Round
	shadow, err := ahead(t, ctx, source, target, images, &pages.Rounds{
		Processes: func() ([]pages.Process, error) {
			pid := process.Process.Pid
			return []pages.Process{{PID: pid, Image: uint32(pid)}, {PID: 1 << 30, Image: 1}}, nil
		},
		Again: func(r pages.Round) (bool, error) {
			rounds = append(rounds, r)
			return len(rounds) < 3, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(rounds) != 3 || rounds[0].Bytes() < childSize/2 || rounds[1].Bytes() > childSize/8 || rounds[1].Pages < rounds[0].Pages/2 {
		t.Errorf("rounds %+v", rounds)
	}
	if err := os.WriteFile(filepath.Join(work, "change"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, filepath.Join(work, "changed"))

	sent, received := moveAfterRounds(t, ctx, source, target, process.Process.Pid, images, work, shadow)
	if sent != received || sent.KnownPages < childSize/4/page || sent.Bytes < childSize/16 || sent.Bytes > childSize/2 {
		t.Errorf("sent %+v, received %+v", sent, received)
	}
}

// own is this process, whose memory can be read without privileges.
func own() ([]pages.Process, error) { return []pages.Process{{PID: os.Getpid(), Image: 3}}, nil }

// TestRoundsOfHugeMappings maps more than any plan may have.
func TestRoundsOfHugeMappings(t *testing.T) {
	for range 3 {
		huge, err := unix.Mmap(-1, 0, 400<<30, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
		if err != nil {
			t.Skipf("can't map 400 GiB: %v", err)
		}
		defer unix.Munmap(huge)
		huge[0] = 1
	}
	source, target := connPair(t)
	var round pages.Round
	shadow, err := ahead(t, t.Context(), source, target, tmpfsDir(t), &pages.Rounds{
		Processes: own, Again: func(r pages.Round) (bool, error) { round = r; return false, nil },
	})
	if err != nil || shadow == nil || round.Sent == 0 {
		t.Errorf("%+v, %v", round, err)
	}
}

func TestRoundsEnd(t *testing.T) {
	no := errors.New("not converging")
	for name, test := range map[string]struct {
		dir     func(t *testing.T) string
		again   func(pages.Round) (bool, error)
		want    error
		explain string
	}{
		"by policy":         {tmpfsDir2, func(pages.Round) (bool, error) { return false, nil }, nil, ""},
		"by a policy's no":  {tmpfsDir2, func(pages.Round) (bool, error) { return false, no }, no, ""},
		"by a full target":  {func(t *testing.T) string { return smallTmpfs(t, "1m") }, forRounds(1000), syscall.ENOSPC, "no space left"},
		"after some rounds": {tmpfsDir2, forRounds(3), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			source, target := connPair(t)
			shadow, err := ahead(t, ctx, source, target, test.dir(t), &pages.Rounds{Processes: own, Again: test.again})
			if test.want == nil && (err != nil || shadow == nil) || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("ended with %v", err)
			}
			if test.explain != "" && !strings.Contains(err.Error(), test.explain) {
				t.Errorf("ended with %v", err)
			}
			// The connection carries on.
			shadow, err = ahead(t, ctx, source, target, tmpfsDir(t), &pages.Rounds{Processes: own, Again: forRounds(1)})
			if err != nil || shadow == nil {
				t.Errorf("the next: %v", err)
			}
		})
	}
}

func tmpfsDir2(t *testing.T) string { return tmpfsDir(t) }

// forRounds is a policy of n rounds.
func forRounds(n int) func(pages.Round) (bool, error) {
	return func(pages.Round) (bool, error) { n--; return n > 0, nil }
}
