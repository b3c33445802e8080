package network

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// stranger opens the namespace of a Network again, on a host of the lab, with nothing known about it.
func stranger(t *testing.T, host *space, n *Network) *Network {
	t.Helper()
	files := make([]*os.File, 2)
	for i, f := range []*os.File{n.File(), host.ns} {
		var err error
		if files[i], err = os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err != nil {
			t.Fatal(err)
		}
	}
	again, err := open(files[0], files[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() })
	return again
}

func TestDiscover(t *testing.T) {
	l := newLab(t)
	want := podConfig("engine7")
	want.Link, want.MTU = "net0", 1400
	n := l.mustUp(l.hostA, want)
	// What modules of the kernel put into every namespace does not count.
	if err := n.pod.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "idle0", TxQLen: -1}}); err != nil {
		t.Fatal(err)
	}
	got, err := Discover(t.Context(), stranger(t, l.hostA, n), Fresh{})
	if err != nil || got == nil {
		t.Fatal(got, err)
	}
	want, err = Snapshot(t.Context(), n, want, Fresh{})
	if err != nil {
		t.Fatal(err)
	}
	if !got.Equal(want) {
		t.Errorf("found\n%+v\nnot\n%+v", *got, want)
	}
	empty := l.network(l.hostA)
	if got, err := Discover(t.Context(), stranger(t, l.hostA, empty), Fresh{}); got != nil || err != nil {
		t.Errorf("a namespace with loopback only has %+v, %v", got, err)
	}
}

func TestDiscoverUnfit(t *testing.T) {
	l := newLab(t)
	for name, c := range map[string]struct {
		change func(t *testing.T, n *Network)
		want   string
	}{
		"no bridge": {
			func(t *testing.T, n *Network) { must(t, n.Detach(t.Context())) },
			"link eth0 has its other end, engine7, in no bridge",
		},
		"second link": {
			func(t *testing.T, n *Network) {
				v := netlink.NewVeth(netlink.LinkAttrs{Name: "more0", TxQLen: -1})
				v.PeerName, v.PeerNamespace = "more1", netlink.NsFd(l.client.ns.Fd())
				must(t, n.pod.LinkAdd(v))
			},
			"is a second one beside",
		},
		"other kind": {
			func(t *testing.T, n *Network) {
				b := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "own0", TxQLen: -1}}
				must(t, n.pod.LinkAdd(b), n.pod.LinkSetUp(b))
			},
			"link own0 is of type bridge, not veth",
		},
		"elsewhere": {
			func(t *testing.T, n *Network) {
				must(t, n.Remove(t.Context()))
				v := netlink.NewVeth(netlink.LinkAttrs{Name: "eth0", TxQLen: -1})
				v.PeerName, v.PeerNamespace = "far0", netlink.NsFd(l.client.ns.Fd())
				must(t, n.pod.LinkAdd(v))
			},
			"link eth0 has its other end in a namespace that is not the host's",
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := l.mustUp(l.hostA, podConfig("engine7"))
			defer n.Remove(t.Context())
			c.change(t, n)
			var unfit *UnfitError
			got, err := Discover(t.Context(), stranger(t, l.hostA, n), Fresh{})
			if got != nil || !errors.As(err, &unfit) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("found %+v, %v; want %q", got, err, c.want)
			}
			if _, err := l.client.h.LinkByName("far0"); err == nil {
				must(t, l.client.h.LinkDel(l.client.link(t, "far0")))
			}
		})
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestUsers(t *testing.T) {
	l := newLab(t)
	n := l.network(l.hostA)
	if pids, err := n.Users(); len(pids) > 0 || err != nil {
		t.Errorf("processes in an empty namespace: %v, %v", pids, err)
	}
	cmd := exec.Command("sleep", "60")
	must(t, inside(n.File(), cmd.Start))
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if pids, err := n.Users(); !slices.Equal(pids, []int{cmd.Process.Pid}) || err != nil {
		t.Errorf("processes in the namespace: %v, %v, want %d", pids, err, cmd.Process.Pid)
	}
}
