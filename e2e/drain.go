package e2e

import (
	"testing"
	"time"
)

// drainTimeout bounds a zap drain of some pods.
const drainTimeout = 5 * time.Minute

// StartDrain starts zap drain in the host.
func (h *Host) StartDrain(t testing.TB, to *Host, o MoveOptions) *Move {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = drainTimeout
	}
	return h.startMove(t, o, "drain", to.Peer())
}

// Drain moves all pods of the host, which must go through, and answers with the report of each, by the pods' names.
func (h *Host) Drain(t testing.TB, to *Host, args ...string) map[string]Event {
	t.Helper()
	m := h.StartDrain(t, to, MoveOptions{Args: args})
	if r := m.Wait(); r.Err != nil || m.Final.Result != "drained" {
		r.Stdout = ""
		for _, e := range m.Events {
			if e.Event != "progress" {
				r.Stdout += e.Raw + "\n"
			}
		}
		t.Fatalf("drain %s to %s: %v", h.Name, to.Name, r)
	}
	reports := map[string]Event{}
	for _, e := range m.Events {
		if e.Pod != "" && e.Result == "migrated" {
			reports[e.Pod] = e
		}
	}
	return reports
}
