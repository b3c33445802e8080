package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Snapshot returns what travels: cfg with the addresses, routes, neighbours and sysctls that the
// namespace has now. HostLink and Bridge, which are the host's, are cfg's own. Of the sysctls it
// takes those that differ from a fresh namespace's, which takes a few milliseconds.
func Snapshot(ctx context.Context, n *Network, cfg Config, fresh Fresh) (Config, error) {
	c, err := Refresh(ctx, n, cfg)
	if err != nil {
		return c, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c.Sysctls, err = n.sysctls(c.link(), fresh)
	return c, err
}

// Refresh is Snapshot without the sysctls, which stay cfg's: cheap enough for the time in which the
// pod is frozen.
func Refresh(ctx context.Context, n *Network, cfg Config) (Config, error) {
	c := cfg.Clone()
	if err := ctx.Err(); err != nil {
		return c, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	link, err := n.pod.LinkByName(c.link())
	if err != nil {
		return c, fmt.Errorf("find link %s in the pod: %w", c.link(), err)
	}
	n.podLink = link.Attrs().Index
	c.MAC, c.MTU = link.Attrs().HardwareAddr.String(), link.Attrs().MTU
	all, err := n.entries(link.Attrs().HardwareAddr)
	if err != nil {
		return c, err
	}
	c.Addresses = append(all.addresses, all.advertisedAddresses...)
	c.Neighbours = all.neighbours
	c.Gateways, c.Routes = nil, nil
	for _, r := range append(all.routes, all.advertisedRoutes...) {
		if r.Gateway.IsValid() && r == c.gatewayRoute(r.Gateway) {
			c.Gateways = append(c.Gateways, r.Gateway)
		} else {
			c.Routes = append(c.Routes, r)
		}
	}
	return c, nil
}

func (n *Network) sysctls(link string, fresh Fresh) (map[string]string, error) {
	var have map[string]string
	if err := inside(n.ns, func() error { have = walkSysctls(link); return nil }); err != nil {
		return nil, err
	}
	return fresh.changed(have, link)
}

// entries are what is configured on the pod's link.
type entries struct {
	addresses, advertisedAddresses []netip.Prefix
	routes, advertisedRoutes       []Route
	neighbours                     []Neighbour
}

func (n *Network) entries(mac net.HardwareAddr) (entries, error) {
	var e entries
	link := indexed(n.podLink)
	addrs, err := dump(func() ([]netlink.Addr, error) { return n.pod.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return e, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		e.addAddress(a, mac)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		filter := &netlink.Route{LinkIndex: n.podLink} // with the table unspecified: of all tables
		routes, err := dump(func() ([]netlink.Route, error) {
			return n.pod.RouteListFiltered(family, filter, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return e, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			e.addRoute(r, family)
		}
		neighbours, err := dump(func() ([]netlink.Neigh, error) { return n.pod.NeighList(n.podLink, family) })
		if err != nil {
			return e, fmt.Errorf("list neighbours: %w", err)
		}
		for _, x := range neighbours {
			e.addNeighbour(x)
		}
	}
	return e, nil
}

// dump repeats a listing that a change in the kernel interrupted.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	const tries = 10
	for i := 1; ; i++ {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || i == tries {
			return all, err
		}
	}
}

// addAddress keeps all but the one that the kernel makes from the link's own.
func (e *entries) addAddress(a netlink.Addr, mac net.HardwareAddr) {
	p, ok := prefixOf(a.IPNet)
	switch {
	case !ok || p.Addr() == linkLocal(mac):
	case a.Flags&unix.IFA_F_PERMANENT == 0:
		e.advertisedAddresses = append(e.advertisedAddresses, p)
	default:
		e.addresses = append(e.addresses, p)
	}
}

// addRoute keeps unicast routes that somebody set; the kernel makes its own from the addresses.
func (e *entries) addRoute(r netlink.Route, family int) {
	if r.Type != unix.RTN_UNICAST || r.Protocol == unix.RTPROT_KERNEL || r.Table == unix.RT_TABLE_LOCAL || r.Flags&unix.RTM_F_CLONED != 0 {
		return
	}
	dst, ok := prefixOf(r.Dst)
	if !ok {
		dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if family == netlink.FAMILY_V6 {
			dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	out := Route{
		Destination: dst, Gateway: addrOf(r.Gw), Source: addrOf(r.Src), Metric: r.Priority, Table: r.Table, MTU: r.MTU, AdvMSS: r.AdvMSS,
		InitCwnd: r.InitCwnd, OnLink: r.Flags&unix.RTNH_F_ONLINK != 0,
	}.normal()
	if r.Protocol == unix.RTPROT_RA {
		e.advertisedRoutes = append(e.advertisedRoutes, out)
		return
	}
	e.routes = append(e.routes, out)
}

// addNeighbour keeps entries that can be used at once: a link address is known and nothing says
// that it is wrong.
func (e *entries) addNeighbour(x netlink.Neigh) {
	const usable = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT
	address := addrOf(x.IP)
	if x.State&usable == 0 || !plainAddr(address) {
		return
	}
	if _, err := parseMAC(x.HardwareAddr.String()); err != nil {
		return
	}
	n := Neighbour{
		Address: address, MAC: x.HardwareAddr.String(),
		Permanent: x.State&netlink.NUD_PERMANENT != 0, Router: x.Flags&netlink.NTF_ROUTER != 0,
	}
	if !slices.Contains(e.neighbours, n) {
		e.neighbours = append(e.neighbours, n)
	}
}

// linkLocal is the address that the kernel makes from a link's MAC; it is never carried, since it
// comes by itself.
func linkLocal(mac net.HardwareAddr) netip.Addr {
	if len(mac) != 6 {
		return netip.Addr{}
	}
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5],
	})
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a := addrOf(n.IP)
	bits, size := n.Mask.Size()
	if !a.IsValid() || size != a.BitLen() {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, bits), true
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}
