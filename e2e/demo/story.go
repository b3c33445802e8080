package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
)

// story is one move, as everybody saw it.
type story struct {
	from, to string
	began    time.Time
	frozen   time.Time
	final    e2e.Event
	entries  []entry
	marks    []mark

	worst   e2e.Sample // the reply that took longest
	replies int        // while zap migrate ran
}

// entry is a line of the timeline.
type entry struct {
	at        time.Duration // after the freeze
	who, what string
}

// mark is a step of the pause, for the picture.
type mark struct {
	at   time.Duration // after the freeze
	what string
}

// meanings of the phases, of the source (those of the target follow) and of the steps in the result.
var (
	phases = map[string]string{
		"Offered":    "asks the target whether it would take the pod, and compares both hosts",
		"PreCopying": "sends files while the pod runs, starts CRIU beside it",
		"Frozen":     "freezes the pod: the pause begins",
		"Sent":       "has sent everything; the pod stays frozen here",
		"Committed":  "gives the pod away, kills the frozen processes",
		"Done":       "has nothing left of the pod",

		"Accepted":  "takes the pod",
		"Receiving": "makes namespace, addresses, neighbours and cgroup, starts CRIU",
		"Restoring": "lets CRIU restore the processes",
		"Prepared":  "has the whole pod, not running yet; waits for the word",
		"Running":   "lets the pod run and delivers the frames it held: the pause is over",
	}
	steps = map[string]string{
		"freeze":   "has frozen it and cut it from the network; the target answers for its address and holds frames",
		"memory":   "has sent the memory",
		"dump":     "has the images of everything else",
		"prepared": "hears that the pod is prepared",
		"running":  "hears that the pod runs",
	}
	marked = map[string]string{"memory": "memory sent", "dump": "dumped", "prepared": "restored", "running": "running"}
)

// tell moves the pod and listens to what zap migrate says.
func tell(t testing.TB, from, to *e2e.Host, pod string) *story {
	s := &story{from: from.Name, to: to.Name, began: time.Now()}
	m := from.StartMove(t, pod, to, e2e.MoveOptions{})
	if r := m.Wait(); r.Err != nil || m.Final.Result != "migrated" {
		t.Fatalf("migrate %s from %s to %s: %v", pod, from.Name, to.Name, r)
	}
	s.final = m.Final
	s.frozen = timeOf(m.Events, "source", "Frozen")
	if s.frozen.IsZero() {
		t.Fatalf("zap migrate did not say when the pod was frozen:\n%s", m.Result.Stdout)
	}
	for _, e := range m.Events {
		if e.Event == "phase" {
			s.add(eventTime(e).Sub(s.frozen), e.Side, fmt.Sprintf("%-10s %s", e.Phase, phases[e.Phase]))
		}
	}
	var result struct{ CRIU map[string]float64 }
	if err := json.Unmarshal([]byte(m.Final.Raw), &result); err != nil {
		t.Fatalf("read result: %v", err)
	}
	for step, ms := range result.CRIU {
		at := time.Duration(ms * float64(time.Millisecond))
		if what := steps[step]; what != "" {
			s.add(at, "source", fmt.Sprintf("%-10s %s", "", what))
		}
		if what := marked[step]; what != "" {
			s.marks = append(s.marks, mark{at, what})
		}
	}
	slices.SortFunc(s.marks, func(a, b mark) int { return int(a.at - b.at) })
	return s
}

// eventTime is when zap says that it was.
func eventTime(e e2e.Event) time.Time {
	var stamp struct{ Time time.Time }
	if json.Unmarshal([]byte(e.Raw), &stamp) == nil && !stamp.Time.IsZero() {
		return stamp.Time
	}
	return e.At
}

func timeOf(events []e2e.Event, side, phase string) time.Time {
	for _, e := range events {
		if e.Event == "phase" && e.Side == side && e.Phase == phase {
			return eventTime(e)
		}
	}
	return time.Time{}
}

func (s *story) add(at time.Duration, who, what string) {
	s.entries = append(s.entries, entry{at, who, strings.TrimRight(what, " ")})
}

// look takes what the client saw of the move.
func (s *story) look(c *e2e.Counter) {
	end := time.Now()
	for _, sample := range c.Samples() {
		if sample.At.Before(s.began) || sample.At.After(end) {
			continue
		}
		s.replies++
		if sample.Took > s.worst.Took {
			s.worst = sample
		}
	}
	sent := s.worst.At.Sub(s.frozen)
	s.add(sent, "client", "           sends the INCR that it will wait for longest")
	s.add(sent+s.worst.Took, "client", fmt.Sprintf("           has the reply, after %s", millis(s.worst.Took)))
}

// print prints the timeline.
func (s *story) print(out io.Writer) {
	slices.SortStableFunc(s.entries, func(a, b entry) int { return int(a.at - b.at) })
	fmt.Fprintf(out, "%10s  (ms after the freeze)\n", "")
	for _, e := range s.entries {
		who := e.who
		switch who {
		case "source":
			who = s.from
		case "target":
			who = s.to
		}
		fmt.Fprintf(out, "%+10.1f  %-7s %s\n", float64(e.at.Microseconds())/1000, who, e.what)
	}
	f := s.final
	fmt.Fprintf(out, "  paused %.1f ms, %.0f ms in all; %s on the wire, of memory %s; %d frames held and delivered\n",
		f.PauseMS, f.TotalMS, megabytes(f.Bytes), megabytes(f.MemoryBytes), f.HeldFrames)
}

// summarize says the whole in a few lines.
func (d *demo) summarize(out io.Writer, picture string) {
	var pauses []string
	for _, s := range d.moves {
		pauses = append(pauses, fmt.Sprintf("%.1f ms (%s to %s)", s.final.PauseMS, s.from, s.to))
	}
	retransmits := "The client had to send nothing again."
	if n := d.client.Retransmits; n > 0 {
		retransmits = fmt.Sprintf("The client's TCP sent %d of its segments again.", n)
	}
	fmt.Fprintf(out, `
The redis went to the other host and back with its memory, files, pids, address and MAC, paused for %s.
The client got %d replies on one TCP connection, each one more than the last; the slowest took %s, the median %s.
%s After each move nothing of the pod was left on the host that it came from, and now nothing on either.
Picture: %s
`, strings.Join(pauses, " and "), d.client.Count, millis(d.client.Worst.Took), millis(medianTook(d.client.Samples)), retransmits, picture)
}

func medianTook(samples []e2e.Sample) time.Duration {
	took := make([]time.Duration, len(samples))
	for i, s := range samples {
		took[i] = s.Took
	}
	slices.Sort(took)
	return took[len(took)/2]
}

func millis(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%.2f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
