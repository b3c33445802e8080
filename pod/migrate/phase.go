package migrate

import (
	"fmt"
	"slices"
)

// Phase is a step of a move. A side writes a phase to its journal before it
// acts on it.
type Phase string

// The source's phases, in order. Aborted follows any of them before Committed:
// the pod goes on at the source. It follows Committed when the target has lost the pod, which has stopped then.
const (
	Offered    Phase = "Offered"    // the target has been asked
	PreCopying Phase = "PreCopying" // files go over while the pod runs
	Frozen     Phase = "Frozen"     // the pod is frozen and cut from the network
	Sent       Phase = "Sent"       // the target has everything
	Committed  Phase = "Committed"  // the pod is the target's
	Done       Phase = "Done"       // nothing of the pod is left here
	Aborted    Phase = "Aborted"    // the pod is the source's; the target has to be told
)

// The target's phases, in order. Discarded follows any of them before Running;
// out of Prepared only the source's word leads.
const (
	Accepted  Phase = "Accepted"
	Receiving Phase = "Receiving"
	Restoring Phase = "Restoring"
	Prepared  Phase = "Prepared"
	Running   Phase = "Running"
	Discarded Phase = "Discarded"
)

// next holds the order of the phases; it is the only place that knows it.
var next = map[Phase][]Phase{
	"":         {Offered, Accepted, Aborted},
	Offered:    {PreCopying, Aborted},
	PreCopying: {Frozen, Aborted},
	Frozen:     {Sent, Aborted},
	Sent:       {Committed, Aborted},
	Committed:  {Done, Aborted},

	Accepted:  {Receiving, Discarded},
	Receiving: {Restoring, Discarded},
	Restoring: {Prepared, Discarded},
	Prepared:  {Running, Discarded},
}

// targetPhases are those that a target tells its source.
var targetPhases = []Phase{Accepted, Receiving, Restoring, Prepared, Running, Discarded}

// check says whether to may follow from.
func check(from, to Phase) error {
	if slices.Contains(next[from], to) {
		return nil
	}
	return fmt.Errorf("phase %s can't follow %s", to, from)
}

// Decided says that the pod belongs to the target from p on.
func (p Phase) Decided() bool { return p == Committed || p == Done }
