package migrate

import (
	"slices"
	"testing"
)

// order is what each side goes through when nothing fails.
var order = map[string][]Phase{
	"source": {"", Offered, PreCopying, Frozen, Sent, Committed, Done},
	"target": {"", Accepted, Receiving, Restoring, Prepared, Running},
}

// TestPhases tries every pair of phases: what may follow is the next of the same side, or the end of a move that failed.
func TestPhases(t *testing.T) {
	all := []Phase{"", Offered, PreCopying, Frozen, Sent, Committed, Done, Aborted, Accepted, Receiving, Restoring, Prepared, Running, Discarded, "Invented"}
	for _, from := range all {
		for _, to := range all {
			want := false
			for _, phases := range order {
				i := slices.Index(phases, from)
				want = want || i >= 0 && i+1 < len(phases) && phases[i+1] == to
			}
			switch to {
			case Aborted: // as long as the pod is the source's, or when it is its own again
				want = slices.Contains([]Phase{"", Offered, PreCopying, Frozen, Sent, Committed}, from)
			case Discarded: // as long as it does not run on the target
				want = slices.Contains([]Phase{Accepted, Receiving, Restoring, Prepared}, from)
			}
			if err := check(from, to); (err == nil) != want {
				t.Errorf("from %q to %q: %v, want it to be possible: %v", from, to, err, want)
			}
		}
	}
}

func TestDecided(t *testing.T) {
	for phase := range next {
		if want := phase == Committed; phase.Decided() != want {
			t.Errorf("%q decided: %v, want %v", phase, phase.Decided(), want)
		}
	}
	if !Done.Decided() || Aborted.Decided() {
		t.Error("a move that is done was committed, one that was aborted was not")
	}
}
