package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// caches is what zap may leave on a host for the next time, by the beginning of the path below --root: CRIU's probe of the
// kernel, lower layers, which are sent once, and the logs of a CRIU that has failed.
var caches = []string{"file: .criu", "file: .network", "file: layers", "file: .failed"}

// trip is a lab in which both hosts take pods in, with a client, and what the hosts had before the first pod.
type trip struct {
	*Lab
	alpha, beta *Host
	client      NetNS
	before      map[*Host]Inventory
}

// newTrip makes a lab with alpha and beta serving.
func newTrip(t *testing.T) *trip {
	t.Helper()
	l := NewLab(t)
	tr := &trip{Lab: l, alpha: l.Host("alpha"), beta: l.Host("beta"), client: l.NewClient(), before: map[*Host]Inventory{}}
	for _, h := range l.Hosts {
		h.Serve(t)
	}
	for _, h := range l.Hosts {
		tr.before[h] = h.Inventory(t)
	}
	return tr
}

// wantNothingLeft fails the test when the host has anything that it had not before the first pod.
func (tr *trip) wantNothingLeft(t *testing.T, h *Host) {
	t.Helper()
	h.WantSame(t, tr.before[h], caches...)
}

// wantOnlyOn fails the test unless the pod runs on one host and no other knows it.
func (tr *trip) wantOnlyOn(t *testing.T, h *Host, pod string) {
	t.Helper()
	for _, other := range tr.Hosts {
		status := podStatus(t, other, pod)
		if other == h && status != "running" {
			t.Errorf("on %s the pod is %q, not running", other.Name, status)
		}
		if other != h && status != "" {
			t.Errorf("%s still knows the pod: it is %s", other.Name, status)
		}
	}
}

// podStatus is what pod list says of a pod, nothing when it isn't there.
func podStatus(t *testing.T, h *Host, pod string) string {
	t.Helper()
	for _, p := range h.Pods(t) {
		if p["id"] == pod || p["name"] == pod {
			s, _ := p["status"].(string)
			return s
		}
	}
	return ""
}

// redisInfo is a field of redis's INFO, over a connection of its own.
func redisInfo(t *testing.T, from NetNS, address string, fields ...string) []string {
	t.Helper()
	conn, err := from.Dial(address, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := conn.Write(command("INFO", []byte("server"))); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	head, err := in.ReadString('\n')
	size, sizeErr := strconv.Atoi(strings.Trim(head, "$\r\n"))
	if err != nil || sizeErr != nil {
		t.Fatalf("ask redis for INFO: %q, %v", head, err)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(in, text); err != nil {
		t.Fatalf("ask redis for INFO: %v", err)
	}
	found := make([]string, len(fields))
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		if i := slices.Index(fields, name); i >= 0 {
			found[i] = value
		}
	}
	return found
}

// ticking says whether a move's pause was too short for TCP's retransmission timer, of which 200 ms is the least.
func ticking(e Event) bool { return e.PauseMS < 180 }

// mac is the hardware address that a client has for a pod.
func mac(t *testing.T, client NetNS, p Pod) string {
	t.Helper()
	host := &Host{NetNS: client}
	r := host.Try("ip", "-j", "neigh", "show", strings.TrimSuffix(p.Addr(0), ":0"))
	var neighbours []struct{ Lladdr string }
	if r.Err != nil || json.Unmarshal([]byte(r.Stdout), &neighbours) != nil || len(neighbours) != 1 {
		t.Fatalf("neighbour entry of %s: %v", p.Name, r)
	}
	return neighbours[0].Lladdr
}
