package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// prune runs zap prune, which must work, and answers with the kinds of what it removed.
func (h *Host) prune(t *testing.T, args ...string) (kinds []string) {
	t.Helper()
	var r struct {
		Freed   int64 `json:"freed_bytes"`
		Removed []struct {
			Kind  string
			Bytes int64
		}
	}
	text := h.Zap(t, append([]string{"prune", "--format", "json"}, args...)...)
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, p := range r.Removed {
		kinds = append(kinds, p.Kind)
		r.Freed -= p.Bytes
		if p.Kind == "layer" && p.Bytes < 1<<20 {
			t.Errorf("a layer with a shell takes %d bytes", p.Bytes)
		}
	}
	if r.Freed != 0 {
		t.Errorf("the sum is wrong: %s", text)
	}
	return kinds
}

// TestPrune prunes a host while a pod arrives there, runs there, and is gone again: its layer goes only then. The pod comes all the same
// to a host that has been pruned.
func TestPrune(t *testing.T) {
	tr := newTrip(t)
	s := &scene{trip: tr, t: t, server: tr.beta.servers[0], mode: "stop"}
	s.pod = Pod{Name: tr.PodName("prune"), Rootfs: ShellRootfs(t), Number: 83, Args: []string{"/bin/sleep", "31536000"}}
	tr.alpha.RunPod(t, s.pod)
	s.stopAt("target:Receiving")
	if r := tr.beta.TryZap(t, "prune"); r.Code != 1 || !strings.Contains(r.Stderr, "on its way in") {
		t.Errorf("zap prune while a pod arrives: %v", r)
	}
	s.goOn()
	if r := s.move.Wait(); r.Code != 0 {
		t.Fatal(r)
	}
	tr.wantOnlyOn(t, tr.beta, s.pod.Name)
	if got := tr.beta.prune(t); len(got) > 0 {
		t.Errorf("of a pod that runs it removes %q", got)
	}
	// On alpha the layer is a directory of the host's own, which stays.
	if got := tr.alpha.prune(t); !slices.Equal(got, []string{"reference"}) {
		t.Errorf("where the pod has left it removes %q", got)
	}
	tr.beta.Migrate(t, s.pod.Name, tr.alpha)
	if got := tr.beta.prune(t, "--dry-run"); !slices.Equal(got, []string{"layer"}) {
		t.Errorf("it would remove %q", got)
	}
	if got := tr.beta.prune(t); !slices.Equal(got, []string{"layer"}) {
		t.Errorf("it removes %q", got)
	}
	tr.alpha.Migrate(t, s.pod.Name, tr.beta)
	tr.wantOnlyOn(t, tr.beta, s.pod.Name)
	tr.beta.Zap(t, "pod", "rm", "--force", s.pod.Name)
	tr.wantNothingLeft(t, tr.beta)
}
