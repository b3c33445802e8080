package network

import (
	"context"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// lab is two hosts, a switch and a client, each a fresh network namespace. Every host has a bridge
// br0 whose port up leads to the switch, which is a bridge br0 too.
type lab struct {
	t                *testing.T
	sw, client       *space
	hostA, hostB     *space
	clientMAC        net.HardwareAddr
	client4, client6 netip.Addr
}

// space is one namespace of the lab.
type space struct {
	ns *os.File
	h  *netlink.Handle
}

const patience = 10 * time.Second

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{}
	err := onThread(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if s.ns, err = os.Open(threadNamespace); err != nil {
			return err
		}
		s.h, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.h.Close(); s.ns.Close() })
	s.up(t, "lo")
	return s
}

func (s *space) link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := s.h.LinkByName(name)
	if err != nil {
		t.Fatalf("link %s: %v", name, err)
	}
	return l
}

func (s *space) up(t *testing.T, name string) {
	t.Helper()
	if err := s.h.LinkSetUp(s.link(t, name)); err != nil {
		t.Fatalf("link %s up: %v", name, err)
	}
}

func (s *space) bridge(t *testing.T, name string) {
	t.Helper()
	if err := s.h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, TxQLen: -1}}); err != nil {
		t.Fatalf("bridge %s: %v", name, err)
	}
	s.up(t, name)
}

// cable joins two spaces by a veth pair and takes it up.
func cable(t *testing.T, a *space, aName string, b *space, bName string) {
	t.Helper()
	v := netlink.NewVeth(netlink.LinkAttrs{Name: aName, TxQLen: -1})
	v.PeerName, v.PeerNamespace = bName, netlink.NsFd(b.ns.Fd())
	if err := a.h.LinkAdd(v); err != nil {
		t.Fatalf("cable %s-%s: %v", aName, bName, err)
	}
	a.up(t, aName)
	b.up(t, bName)
}

func (s *space) enslave(t *testing.T, name, bridge string) {
	t.Helper()
	if err := s.h.LinkSetMaster(s.link(t, name), s.link(t, bridge)); err != nil {
		t.Fatalf("%s into %s: %v", name, bridge, err)
	}
}

func (s *space) address(t *testing.T, link, cidr string) {
	t.Helper()
	if err := s.h.AddrReplace(s.link(t, link), &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix(cidr)), Flags: unix.IFA_F_NODAD}); err != nil {
		t.Fatalf("address %s: %v", cidr, err)
	}
}

func newLab(t *testing.T) *lab {
	t.Helper()
	needsRoot(t)
	l := &lab{t: t, sw: newSpace(t), client: newSpace(t), hostA: newSpace(t), hostB: newSpace(t)}
	l.sw.bridge(t, "br0")
	for _, p := range []struct {
		s    *space
		port string
	}{{l.hostA, "pa"}, {l.hostB, "pb"}} {
		p.s.bridge(t, "br0")
		cable(t, p.s, "up", l.sw, p.port)
		p.s.enslave(t, "up", "br0")
		l.sw.enslave(t, p.port, "br0")
	}
	cable(t, l.client, "eth0", l.sw, "pc")
	l.sw.enslave(t, "pc", "br0")
	l.client4, l.client6 = netip.MustParseAddr("10.77.0.9"), netip.MustParseAddr("fd77::9")
	l.client.address(t, "eth0", "10.77.0.9/24")
	l.client.address(t, "eth0", "fd77::9/64")
	l.clientMAC = l.client.link(t, "eth0").Attrs().HardwareAddr
	return l
}

// neverRetransmit makes the client wait for longer than any test before it sends a segment again:
// what is lost stays lost.
func (l *lab) neverRetransmit() {
	l.t.Helper()
	for _, cidr := range []string{"10.77.0.0/24", "fd77::/64"} {
		r := &netlink.Route{LinkIndex: l.client.link(l.t, "eth0").Attrs().Index, Dst: ipNet(netip.MustParsePrefix(cidr)), RtoMin: 60_000, RtoMinLock: true}
		if r.Dst.IP.To4() != nil {
			r.Scope = netlink.SCOPE_LINK
		} else {
			r.Priority = 1 // before the kernel's own
		}
		if err := l.client.h.RouteReplace(r); err != nil {
			l.t.Fatalf("route %s: %v", cidr, err)
		}
	}
}

func podConfig(hostLink string) Config {
	return Config{
		Bridge: "br0", HostLink: hostLink, MAC: "02:00:00:00:00:50",
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.50/24"), netip.MustParsePrefix("fd77::50/64")},
		Gateways:  []netip.Addr{netip.MustParseAddr("10.77.0.9"), netip.MustParseAddr("fd77::9")},
	}
}

// network makes a pod's Network on a host of the lab.
func (l *lab) network(host *space) *Network {
	l.t.Helper()
	var n *Network
	err := inside(host.ns, func() (err error) { n, err = New(); return err })
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { n.Close() })
	return n
}

// listen listens in a namespace; the listener stays in it wherever it is used.
func listen(t *testing.T, ns *os.File, network, address string) net.Listener {
	t.Helper()
	var ln net.Listener
	config := net.ListenConfig{}
	config.SetMultipathTCP(false)
	err := inside(ns, func() (err error) { ln, err = config.Listen(context.Background(), network, address); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// dial connects from a namespace. The address is a literal one, so that net.Dial stays on this
// thread.
func dial(ns *os.File, address string, timeout time.Duration) (net.Conn, error) {
	var c net.Conn
	err := inside(ns, func() (err error) { c, err = net.DialTimeout("tcp", address, timeout); return err })
	return c, err
}
