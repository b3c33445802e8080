package migrate

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/zap-migrate/zap/pod/pages"
)

func TestPolicy(t *testing.T) {
	page := int64(os.Getpagesize())
	round := func(sent, changed int64) pages.Round {
		if changed > 0 {
			changed /= page
		}
		return pages.Round{Pages: 1 << 20, Sent: sent / page, Elapsed: time.Second, Changed: changed}
	}
	const mib, unknown = 1 << 20, -1
	for name, test := range map[string]struct {
		rounds   []pages.Round
		most     int
		downtime time.Duration
		want     int // rounds
		long     bool
	}{
		"nothing changed":                {rounds: []pages.Round{round(900*mib, 0), round(0, 0)}, want: 1},
		"little changed":                 {rounds: []pages.Round{round(900*mib, 3*mib), round(0, 0)}, want: 1},
		"unknown after the first":        {rounds: []pages.Round{round(900*mib, unknown), round(2*mib, unknown), round(0, 0)}, want: 2},
		"it converges":                   {rounds: []pages.Round{round(900*mib, 300*mib), round(300*mib, 90*mib), round(90*mib, 3*mib), round(0, 0)}, want: 3},
		"it does not converge":           {rounds: []pages.Round{round(900*mib, 800*mib), round(800*mib, 800*mib), round(0, 0)}, want: 2},
		"it grows":                       {rounds: []pages.Round{round(90*mib, 80*mib), round(200*mib, 100*mib), round(0, 0)}, want: 2},
		"as many as allowed":             {rounds: []pages.Round{round(900*mib, 500*mib), round(500*mib, 300*mib), round(300*mib, 200*mib)}, most: 2, want: 2},
		"one allowed":                    {rounds: []pages.Round{round(900*mib, 500*mib), round(0, 0)}, most: 1, want: 1},
		"short enough":                   {rounds: []pages.Round{round(900*mib, 0)}, downtime: 2 * time.Second, want: 1},
		"too much memory to be compared": {rounds: []pages.Round{round(900*mib, 0)}, downtime: 500 * time.Millisecond, want: 1, long: true},
		"too much changes":               {rounds: []pages.Round{round(900*mib, 800*mib), round(800*mib, 800*mib)}, downtime: 1500 * time.Millisecond, want: 2, long: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := policy{maxRounds: test.most, maxDowntime: test.downtime, memory: 900 * mib}
			if p.maxRounds == 0 {
				p.maxRounds = DefaultMaxRounds
			}
			for i, r := range test.rounds {
				again, err := p.again(r)
				if again {
					continue
				}
				if i+1 != test.want || errors.Is(err, ErrDowntime) != test.long || err != nil && !test.long {
					t.Errorf("after round %d: %v", i+1, err)
				}
				return
			}
			t.Error("it goes on for ever")
		})
	}
}

func TestModes(t *testing.T) {
	for _, name := range []string{"auto", "pre", "stop"} {
		if m, err := ParseMode(name); err != nil || string(m) != name {
			t.Errorf("%s: %q, %v", name, m, err)
		}
	}
	if _, err := ParseMode("post"); err == nil {
		t.Error("there is a mode post")
	}
}

func TestInnerPID(t *testing.T) {
	if id, ok := innerPID(os.Getpid()); !ok || id == 0 {
		t.Errorf("own id %d, %v", id, ok)
	}
	if _, ok := innerPID(1 << 30); ok {
		t.Error("a process that is none has an id")
	}
}
