package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// mustSet applies c and checks that a second look finds nothing left to do.
func mustSet(t *testing.T, n *Network, c Config) {
	t.Helper()
	if err := n.Set(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	have, err := n.observe(&c)
	if err != nil {
		t.Fatal(err)
	}
	if steps := plan(have, c); len(steps) != 0 {
		t.Fatalf("after Set there is still to do: %s", steps)
	}
}

// mustUp brings a pod up on a host.
func (l *lab) mustUp(host *space, c Config) *Network {
	l.t.Helper()
	n := l.network(host)
	if err := n.Up(l.t.Context(), c); err != nil {
		l.t.Fatal(err)
	}
	return n
}

// echo serves connections in a pod until the test ends: what comes in goes back.
func echo(t *testing.T, n *Network, address string) {
	t.Helper()
	ln := listen(t, n.File(), "tcp", address)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() { _, _ = io.Copy(c, c); _ = c.(*net.TCPConn).CloseWrite() }()
		}
	}()
}

func mustDial(t *testing.T, from *space, address string) net.Conn {
	t.Helper()
	c, err := dial(from.ns, address, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// roundTrip sends text and waits for its echo.
func roundTrip(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if err := exchange(c, text, patience); err != nil {
		t.Fatalf("%s: %v", c.RemoteAddr(), err)
	}
}

func exchange(c net.Conn, text string, within time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	defer c.SetDeadline(time.Time{})
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	return expect(c, text)
}

func expect(c net.Conn, text string) error {
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("got %q, want %q", got, text)
	}
	return nil
}

// eventually waits until check says nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestUpReachable(t *testing.T) {
	l := newLab(t)
	n := l.mustUp(l.hostA, podConfig("zapA"))
	echo(t, n, "10.77.0.50:80")
	echo(t, n, "[fd77::50]:80")
	roundTrip(t, mustDial(t, l.client, "10.77.0.50:80"), "four")
	roundTrip(t, mustDial(t, l.client, "[fd77::50]:80"), "six")
	// And through the default routes the pod reaches an address behind the client.
	l.client.address(t, "lo", "192.0.2.1/32")
	l.client.address(t, "lo", "2001:db8::1/128")
	for _, a := range []string{"192.0.2.1:81", "[2001:db8::1]:81"} {
		ln := listen(t, l.client.ns, "tcp", a)
		c, err := dial(n.File(), a, patience)
		if err != nil {
			t.Fatalf("from the pod: %v", err)
		}
		c.Close()
		ln.Close()
	}
}

func TestMTUComesFromTheBridge(t *testing.T) {
	l := newLab(t)
	if err := l.hostA.h.LinkSetMTU(l.hostA.link(t, "br0"), 1400); err != nil {
		t.Fatal(err)
	}
	n := l.mustUp(l.hostA, podConfig("zapA"))
	snap, err := Refresh(t.Context(), n, podConfig("zapA"))
	if host := l.hostA.link(t, "zapA").Attrs().MTU; err != nil || snap.MTU != 1400 || host != 1400 {
		t.Errorf("mtu is %d in the pod and %d on the host, %v", snap.MTU, host, err)
	}
}

func TestNewNamespace(t *testing.T) {
	l := newLab(t)
	n := l.network(l.hostA)
	if err := inside(n.File(), func() error {
		if v, err := readSysctl(mptcpPath); v != "0" {
			return fmt.Errorf("mptcp enabled is %q, %w", v, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	echo(t, n, "127.0.0.1:80") // lo is up
	c, err := dial(n.File(), "127.0.0.1:80", patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	roundTrip(t, c, "loop")
}

func TestThreadIsNeverTheFirst(t *testing.T) {
	needsRoot(t)
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for range 100 { // often enough to meet the first thread
		n, err := New()
		if err != nil {
			t.Fatal(err)
		}
		n.Close()
		if now, _ := os.Readlink("/proc/self/ns/net"); now != home {
			t.Fatalf("the process went from %s to %s", home, now)
		}
	}
}

func TestSetAppliesTheDifference(t *testing.T) {
	l := newLab(t)
	n := l.network(l.hostA)
	c := podConfig("zapA")
	mustSet(t, n, c)
	index := n.podLink
	mustSet(t, n, c)

	c.MAC, c.MTU = "02:00:00:00:00:51", 1400
	c.Addresses = []netip.Prefix{prefix("10.77.0.51/24"), prefix("10.99.0.1/32"), prefix("fd77::50/64")}
	c.Gateways = []netip.Addr{addr("10.77.0.1")}
	c.Routes = []Route{
		{Destination: prefix("10.9.0.0/16"), Gateway: addr("10.77.0.2"), Source: addr("10.99.0.1"), Metric: 5, MTU: 1300, AdvMSS: 1200, InitCwnd: 20},
		{Destination: prefix("10.10.0.0/16"), Gateway: addr("192.0.2.3"), OnLink: true, Table: 100},
		{Destination: prefix("10.11.0.0/16")},
		{Destination: prefix("2001:db8::/32"), Gateway: addr("fd77::3")},
		{Destination: prefix("::/0"), Gateway: addr("fe80::1"), Metric: 77},
	}
	c.Neighbours = []Neighbour{
		{Address: addr("10.77.0.1"), MAC: "02:00:00:00:00:01"},
		{Address: addr("10.77.0.2"), MAC: "02:00:00:00:00:02", Permanent: true},
		{Address: addr("fd77::3"), MAC: "02:00:00:00:00:03", Router: true},
	}
	c.Sysctls = map[string]string{
		"net.core.somaxconn": "123", "net.ipv4.tcp_rmem": "4096 99999 999999", "net.ipv4.ip_local_port_range": "20000 30000",
		"net.ipv4.conf.all.forwarding": "1", "net.ipv4.conf.eth0.rp_filter": "2", "net.ipv6.conf.eth0.hop_limit": "33",
	}
	mustSet(t, n, c)
	mustSet(t, n, c)
	if n.podLink != index {
		t.Error("the link was made again")
	}
	mustSet(t, n, podConfig("zapA"))
	if n.podLink != index {
		t.Error("the link was made again on the way back")
	}
	snap, err := Snapshot(t.Context(), n, podConfig("zapA"), Fresh{})
	if err != nil {
		t.Fatal(err)
	}
	if want := podConfig("zapA"); !sameSet(snap.Addresses, want.Addresses) || !sameSet(snap.Gateways, want.Gateways) || len(snap.Routes) != 0 {
		t.Errorf("after the way back:\n%s", snap)
	}
}

func TestSnapshotTravels(t *testing.T) {
	l := newLab(t)
	a := l.network(l.hostA)
	c := podConfig("zapA")
	c.MTU = 1450
	c.Routes = []Route{{Destination: prefix("10.9.0.0/16"), Gateway: addr("10.77.0.2"), Metric: 5}, {Destination: prefix("::/0"), Gateway: addr("fe80::1"), Metric: 77}}
	c.Neighbours = []Neighbour{{Address: addr("10.77.0.2"), MAC: "02:00:00:00:00:02"}, {Address: addr("fd77::3"), MAC: "02:00:00:00:00:03", Permanent: true}}
	c.Sysctls = map[string]string{"net.ipv4.tcp_wmem": "4096 20000 300000", "net.ipv4.conf.eth0.rp_filter": "2", "net.core.somaxconn": "7", "net.ipv4.neigh.eth0.gc_stale_time": "61"}
	mustSet(t, a, c)
	snap, err := Snapshot(t.Context(), a, podConfig("zapA"), Fresh{})
	if err != nil {
		t.Fatal(err)
	}
	if !snap.Equal(c) {
		t.Fatalf("snapshot says\n%swant\n%s", snap, c)
	}

	// What a pod does to itself travels as well.
	if err := a.pod.AddrAdd(indexed(a.podLink), &netlink.Addr{IPNet: ipNet(prefix("10.77.0.60/24"))}); err != nil {
		t.Fatal(err)
	}
	if snap, err = Refresh(t.Context(), a, snap); err != nil {
		t.Fatal(err)
	}
	b := l.network(l.hostB)
	snap.HostLink = "zapB"
	mustSet(t, b, snap)
	there, err := Snapshot(t.Context(), b, Config{Bridge: "br0", HostLink: "zapB"}, Fresh{})
	if err != nil {
		t.Fatal(err)
	}
	there.Link = snap.Link
	if !there.Equal(snap) || len(there.Addresses) != 3 {
		t.Errorf("at the other host\n%swant\n%s", there, snap)
	}
}

func TestSetTakesOverStaleLink(t *testing.T) {
	l := newLab(t)
	stale := l.network(l.hostA)
	mustSet(t, stale, podConfig("zapA"))
	n := l.network(l.hostA)
	mustSet(t, n, podConfig("zapA"))

	if err := l.hostA.h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "precious", TxQLen: -1}}); err != nil {
		t.Fatal(err)
	}
	if err := l.network(l.hostA).Set(t.Context(), podConfig("precious")); err == nil {
		t.Error("a bridge was taken for a stale link")
	}
	if err := inside(l.hostA.ns, func() error { return RemoveLink("precious") }); err == nil {
		t.Error("RemoveLink deleted a bridge")
	}
	l.hostA.link(t, "precious")
}

func TestSetErrorsSayWhat(t *testing.T) {
	l := newLab(t)
	n := l.network(l.hostA)
	c := podConfig("zapA")
	c.Sysctls = map[string]string{"net.ipv4.no_such_thing": "1"}
	err := n.Set(t.Context(), c)
	if want := `set network: nsenter pod sysctl net.ipv4.no_such_thing="1": open /proc/sys/net/ipv4/no_such_thing: no such file or directory`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	c = podConfig("zapA")
	c.Bridge = "nobridge"
	if err := n.Up(t.Context(), c); err == nil || !errors.As(err, new(netlink.LinkNotFoundError)) {
		t.Errorf("error %v, want link not found", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Set(ctx, podConfig("zapA")); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
}

func TestAttachDetach(t *testing.T) {
	l := newLab(t)
	n := l.network(l.hostA)
	mustSet(t, n, podConfig("zapA"))
	master := func() int { return l.hostA.link(t, "zapA").Attrs().MasterIndex }
	before := l.hostA.link(t, "br0").Attrs().HardwareAddr.String()
	if master() != 0 {
		t.Error("Set attached the link")
	}
	for range 2 {
		if err := n.Attach(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if master() == 0 {
		t.Error("Attach did not")
	}
	if after := l.hostA.link(t, "br0").Attrs().HardwareAddr.String(); after != before {
		t.Errorf("the bridge's own address went from %s to %s", before, after)
	}
	for range 2 {
		if err := n.Detach(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if master() != 0 {
		t.Error("Detach did not")
	}
}

func TestFromPID(t *testing.T) {
	l := newLab(t)
	n := l.mustUp(l.hostA, podConfig("zapA"))
	cmd := exec.Command("sleep", "60")
	if err := inside(n.File(), cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	var again *Network
	if err := inside(l.hostA.ns, func() (err error) { again, err = FromPID(cmd.Process.Pid); return err }); err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	mustSet(t, again, podConfig("zapA"))
	if _, err := FromPID(os.Getpid()); err == nil {
		t.Error("the host's own namespace was taken for a pod's")
	}
	if _, err := FromPID(1 << 30); err == nil {
		t.Error("a process that is not there has a namespace")
	}
}

// inventory lists the links and nft tables of a namespace.
func inventory(t *testing.T, s *space) string {
	t.Helper()
	links, err := s.h.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	c, err := nftables.New(nftables.WithNetNSFd(int(s.ns.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	out := fmt.Sprintf("%d tables", len(tables))
	for _, x := range links {
		out += " " + x.Attrs().Name
	}
	return out
}

func TestNothingStays(t *testing.T) {
	l := newLab(t)
	before := inventory(t, l.hostA)
	for _, end := range []string{"Remove", "RemoveLink", "Close alone"} {
		n := l.mustUp(l.hostA, podConfig("zapA"))
		if err := errors.Join(n.Arm(t.Context()), n.Lock(t.Context())); err != nil {
			t.Fatal(err)
		}
		h, err := n.Hold(t.Context(), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if end == "Remove" {
			if _, err := h.Release(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else {
			h.Discard()
		}
		for range 2 {
			switch end {
			case "Remove":
				err = n.Remove(t.Context())
			case "RemoveLink":
				err = inside(l.hostA.ns, func() error { return RemoveLink("zapA") })
			}
			if err != nil {
				t.Fatalf("%s: %v", end, err)
			}
		}
		for range 2 {
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
		}
		// The last: a namespace that is held by nothing takes its end, and so the host's, with it.
		eventually(t, end, func() error {
			if after := inventory(t, l.hostA); after != before {
				return fmt.Errorf("%s, before: %s", after, before)
			}
			return nil
		})
	}
}

func TestDescriptorsDoNotGrow(t *testing.T) {
	l := newLab(t)
	open := func() int {
		all, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	cycle := func() {
		n := l.mustUp(l.hostA, podConfig("zapA"))
		h, err := n.Hold(t.Context(), 1<<20)
		if err == nil {
			_, err = h.Release(t.Context())
		}
		if err := errors.Join(err, n.Remove(t.Context()), n.Close()); err != nil {
			t.Fatal(err)
		}
	}
	cycle()
	before := open()
	for range 5 {
		cycle()
	}
	if after := open(); after > before {
		t.Errorf("%d descriptors, before five cycles %d", after, before)
	}
}
