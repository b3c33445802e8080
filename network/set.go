package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Up does all that a new pod wants: Set, Attach, Announce.
func (n *Network) Up(ctx context.Context, c Config) error {
	if err := n.Set(ctx, c); err != nil {
		return err
	}
	if err := n.Attach(ctx); err != nil {
		return err
	}
	return n.Announce(ctx)
}

// Set makes the namespace what c says, by the difference from what is there: the pair (its host's
// end in the host's namespace, both ends up), addresses without duplicate detection, routes,
// neighbours, sysctls. Repeating it changes nothing. It does not touch the bridge, which is for
// Attach. Neighbours that c does not name stay, as do addresses and routes that a router
// advertised.
func (n *Network) Set(ctx context.Context, c Config) error {
	if err := errors.Join(ctx.Err(), c.Validate()); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.use(c)
	have, err := n.observe(&c)
	if err != nil {
		return err
	}
	for _, s := range plan(have, c) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("set network: %w", err)
		}
		if err := n.apply(s); err != nil {
			return fmt.Errorf("set network: %s: %w", s, err)
		}
	}
	return nil
}

// observe reads the present state. It completes c's MTU from the bridge when the pair has still to
// be made.
func (n *Network) observe(c *Config) (state, error) {
	var have state
	host, err := linkOrNil(n.host, c.HostLink)
	if err != nil {
		return have, err
	}
	link, err := linkOrNil(n.pod, c.link())
	if err != nil {
		return have, err
	}
	have.paired = host != nil && link != nil &&
		link.Attrs().ParentIndex == host.Attrs().Index && host.Attrs().ParentIndex == link.Attrs().Index
	switch {
	case have.paired:
		err = n.observeLink(&have, host.Attrs(), link.Attrs())
	case link != nil:
		err = fmt.Errorf("set network: link %s in the pod is not the other end of %s", c.link(), c.HostLink)
	case host != nil && host.Type() != "veth":
		err = fmt.Errorf("set network: link %s on the host is of type %s, not veth", c.HostLink, host.Type())
	default:
		have.stale = host != nil
		err = n.inheritMTU(c)
	}
	if err != nil {
		return have, err
	}
	err = inside(n.ns, func() (err error) {
		have.sysctls, err = readSysctls(c.Sysctls)
		return err
	})
	return have, err
}

func (n *Network) observeLink(have *state, host, link *netlink.LinkAttrs) error {
	n.hostLink, n.podLink = host.Index, link.Index
	have.hostUp, have.linkUp = host.Flags&net.FlagUp != 0, link.Flags&net.FlagUp != 0
	have.mac, have.mtu, have.hostMTU = link.HardwareAddr.String(), link.MTU, host.MTU
	all, err := n.entries(link.HardwareAddr)
	if err != nil {
		return err
	}
	have.addresses, have.routes, have.neighbours = all.addresses, all.routes, all.neighbours
	return nil
}

func (n *Network) inheritMTU(c *Config) error {
	if c.MTU != 0 || c.Bridge == "" {
		return nil
	}
	bridge, err := n.host.LinkByName(c.Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", c.Bridge, err)
	}
	c.MTU = bridge.Attrs().MTU
	return nil
}

func linkOrNil(h *netlink.Handle, name string) (netlink.Link, error) {
	link, err := h.LinkByName(name)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	return link, nil
}

func (n *Network) apply(s step) error {
	switch s.do {
	case deleteHostLink:
		return removeLink(n.host, s.c.HostLink)
	case addPair:
		return n.addPair(s)
	case quietHostLink:
		return inside(n.home, func() error {
			return quietSysctl(sysctlRoot+"/net/ipv6/conf/"+s.c.HostLink+"/disable_ipv6", "1")
		})
	case quietLink:
		return inside(n.ns, func() error {
			conf := sysctlRoot + "/net/ipv6/conf/" + s.c.link()
			return errors.Join(quietSysctl(conf+"/accept_dad", "0"), quietSysctl(conf+"/dad_transmits", "0"))
		})
	case setSysctl:
		return inside(n.ns, func() error {
			path, err := sysctlPath(s.key)
			if err != nil {
				return err
			}
			return writeSysctl(path, s.val)
		})
	case setHostMTU:
		return n.host.LinkSetMTU(indexed(n.hostLink), s.mtu)
	case hostLinkUp:
		return n.host.LinkSetUp(indexed(n.hostLink))
	}
	return n.applyInPod(s)
}

func (n *Network) applyInPod(s step) error {
	link := indexed(n.podLink)
	switch s.do {
	case setMAC:
		return n.setMAC(s)
	case setMTU:
		return n.pod.LinkSetMTU(link, s.mtu)
	case linkUp:
		return n.pod.LinkSetUp(link)
	case deleteAddress:
		return n.pod.AddrDel(link, &netlink.Addr{IPNet: ipNet(s.prefix)})
	case addAddress:
		return n.pod.AddrReplace(link, &netlink.Addr{IPNet: ipNet(s.prefix), Flags: unix.IFA_F_NODAD})
	case deleteRoute:
		if err := n.pod.RouteDel(n.route(s.route)); err != nil && !errors.Is(err, unix.ESRCH) { // went with its address
			return err
		}
		return nil
	case addRoute:
		return n.pod.RouteReplace(n.route(s.route))
	case setNeighbour:
		return n.pod.NeighSet(n.neighbour(s.neighbour))
	}
	return fmt.Errorf("action %d is not known", s.do)
}

// setMAC changes the pod's own address and with it the link-local one, which the kernel makes from
// it only when the link comes up.
func (n *Network) setMAC(s step) error {
	mac, err := parseMAC(s.c.MAC)
	if err != nil {
		return err
	}
	link, err := n.pod.LinkByIndex(n.podLink)
	if err != nil {
		return err
	}
	if err := n.pod.LinkSetHardwareAddr(link, mac); err != nil {
		return err
	}
	old := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(linkLocal(link.Attrs().HardwareAddr), 64))}
	if err := n.pod.AddrDel(link, old); err != nil { // it had none: no IPv6, or another way of making it
		return nil
	}
	return n.pod.AddrReplace(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(linkLocal(mac), 64)), Flags: unix.IFA_F_NODAD})
}

func (n *Network) addPair(s step) error {
	veth := netlink.NewVeth(netlink.LinkAttrs{Name: s.c.HostLink, MTU: s.mtu, TxQLen: -1, HardwareAddr: newHostMAC()})
	veth.PeerName, veth.PeerNamespace, veth.PeerMTU = s.c.link(), netlink.NsFd(n.ns.Fd()), uint32(s.mtu)
	if s.c.MAC != "" {
		mac, err := parseMAC(s.c.MAC)
		if err != nil {
			return err
		}
		veth.PeerHardwareAddr = mac
	}
	if err := n.host.LinkAdd(veth); err != nil {
		return err
	}
	return n.findLinks()
}

// findLinks looks up both ends' indexes where they are not known.
func (n *Network) findLinks() error {
	if n.podLink == 0 {
		link, err := n.pod.LinkByName(n.cfg.link())
		if err != nil {
			return fmt.Errorf("find link %s in the pod: %w", n.cfg.link(), err)
		}
		n.podLink = link.Attrs().Index
	}
	if n.hostLink == 0 && n.cfg.HostLink != "" {
		link, err := n.host.LinkByName(n.cfg.HostLink)
		if err != nil {
			return fmt.Errorf("find link %s: %w", n.cfg.HostLink, err)
		}
		n.hostLink = link.Attrs().Index
	}
	return nil
}

// indexed is a link of which nothing but the index matters.
func indexed(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func (n *Network) route(r Route) *netlink.Route {
	out := &netlink.Route{
		LinkIndex: n.podLink, Dst: ipNet(r.Destination), Gw: ipOf(r.Gateway), Src: ipOf(r.Source), Priority: r.Metric, Table: r.Table,
		MTU: r.MTU, AdvMSS: r.AdvMSS, InitCwnd: r.InitCwnd, Protocol: unix.RTPROT_STATIC,
	}
	if out.Gw == nil && r.Destination.Addr().Is4() {
		out.Scope = netlink.SCOPE_LINK
	}
	if r.OnLink {
		out.Flags = int(netlink.FLAG_ONLINK)
	}
	return out
}

func (n *Network) neighbour(e Neighbour) *netlink.Neigh {
	mac, _ := net.ParseMAC(e.MAC) // Validate has seen it
	out := &netlink.Neigh{LinkIndex: n.podLink, State: netlink.NUD_STALE, IP: ipOf(e.Address), HardwareAddr: mac}
	if e.Permanent {
		out.State = netlink.NUD_PERMANENT
	}
	if e.Router {
		out.Flags = netlink.NTF_ROUTER
	}
	return out
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func ipOf(a netip.Addr) net.IP {
	if !a.IsValid() {
		return nil
	}
	return a.AsSlice()
}
