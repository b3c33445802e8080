package network

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// state is what Set finds: the two ends and what is configured on them.
type state struct {
	paired  bool // the pod's end exists and its peer is the host's link
	stale   bool // a veth has the host link's name and is not the peer
	linkUp  bool
	hostUp  bool
	mac     string
	mtu     int // of the pod's end
	hostMTU int

	addresses  []netip.Prefix // without what routers advertise and the kernel's link-local ones
	routes     []Route        // without the kernel's and what routers advertise
	neighbours []Neighbour
	sysctls    map[string]string // of the names that were asked for
}

// action says what a step does.
type action int

const (
	deleteHostLink action = iota
	addPair
	quietHostLink // no IPv6 of the host's own on it
	quietLink     // no duplicate address detection: the address is the pod's
	setMAC
	setMTU
	setHostMTU
	setSysctl
	hostLinkUp
	linkUp
	deleteAddress
	addAddress
	deleteRoute
	addRoute
	setNeighbour
)

// step is one change. Its String is the ip command that does the same.
type step struct {
	do        action
	c         *Config
	mtu       int
	prefix    netip.Prefix
	route     Route
	neighbour Neighbour
	key, val  string
}

// plan lists the steps from have to want, in an order in which each can succeed.
func plan(have state, want Config) []step {
	w := want.Clone()
	var steps []step
	add := func(s step) { s.c = &w; steps = append(steps, s) }
	if have.stale {
		add(step{do: deleteHostLink})
	}
	if !have.paired {
		add(step{do: addPair, mtu: w.MTU})
		add(step{do: quietHostLink})
		add(step{do: quietLink})
	}
	if have.paired && w.MAC != "" && !strings.EqualFold(have.mac, w.MAC) {
		add(step{do: setMAC})
	}
	if have.paired && w.MTU != 0 && have.mtu != w.MTU {
		add(step{do: setMTU, mtu: w.MTU})
	}
	if have.paired && w.MTU != 0 && have.hostMTU != w.MTU {
		add(step{do: setHostMTU, mtu: w.MTU})
	}
	for _, key := range sortedSysctls(w.Sysctls) {
		if have.sysctls[key] != w.Sysctls[key] {
			add(step{do: setSysctl, key: key, val: w.Sysctls[key]})
		}
	}
	if !have.hostUp {
		add(step{do: hostLinkUp})
	}
	if !have.linkUp {
		add(step{do: linkUp})
	}
	planEntries(have, w, add)
	return steps
}

func planEntries(have state, w Config, add func(step)) {
	for _, p := range missing(have.addresses, w.Addresses) {
		add(step{do: deleteAddress, prefix: p})
	}
	for _, p := range missing(w.Addresses, have.addresses) {
		add(step{do: addAddress, prefix: p})
	}
	wanted := w.allRoutes()
	for _, r := range missing(have.routes, wanted) {
		add(step{do: deleteRoute, route: r})
	}
	// A route's gateway, or its source, needs the routes and addresses before it.
	fresh := missing(wanted, have.routes)
	slices.SortStableFunc(fresh, func(a, b Route) int { return cmp.Compare(a.rank(), b.rank()) })
	for _, r := range fresh {
		add(step{do: addRoute, route: r})
	}
	for _, n := range missing(w.Neighbours, have.neighbours) {
		add(step{do: setNeighbour, neighbour: n})
	}
}

// allRoutes returns the default routes and the others, as the kernel would list them.
func (c Config) allRoutes() []Route {
	var all []Route
	for _, g := range c.Gateways {
		all = append(all, c.gatewayRoute(g))
	}
	for _, r := range c.Routes {
		all = append(all, r.normal())
	}
	return all
}

func (c Config) gatewayRoute(g netip.Addr) Route {
	unspecified := netip.IPv4Unspecified()
	if g.Is6() {
		unspecified = netip.IPv6Unspecified()
	}
	r := Route{Destination: netip.PrefixFrom(unspecified, 0), Gateway: g, OnLink: !g.IsLinkLocalUnicast()}
	for _, p := range c.Addresses {
		if p.Contains(g) {
			r.OnLink = false
		}
	}
	return r
}

// normal drops what only repeats the kernel's defaults.
func (r Route) normal() Route {
	if r.Table == mainTable {
		r.Table = 0
	}
	if r.Destination.Addr().Is6() && r.Metric == defaultMetric6 {
		r.Metric = 0
	}
	return r
}

const (
	mainTable      = 254
	defaultMetric6 = 1024
)

func (r Route) rank() int {
	switch {
	case !r.Gateway.IsValid():
		return 0
	case r.Destination.Bits() > 0:
		return 1
	}
	return 2
}

// String returns the ip command that does the same; what happens in the pod's namespace is
// addressed to "-n pod".
func (s step) String() string {
	link := s.c.link()
	switch s.do {
	case deleteHostLink:
		return "ip link delete " + s.c.HostLink
	case addPair:
		return s.pairCommand()
	case quietHostLink:
		return fmt.Sprintf("sysctl net.ipv6.conf.%s.disable_ipv6=1", sysctlComponent(s.c.HostLink))
	case quietLink:
		return fmt.Sprintf("nsenter pod sysctl net.ipv6.conf.%s.accept_dad=0", sysctlComponent(link))
	case setMAC:
		return fmt.Sprintf("ip -n pod link set %s address %s", link, s.c.MAC)
	case setMTU:
		return fmt.Sprintf("ip -n pod link set %s mtu %d", link, s.mtu)
	case setHostMTU:
		return fmt.Sprintf("ip link set %s mtu %d", s.c.HostLink, s.mtu)
	case setSysctl:
		return fmt.Sprintf("nsenter pod sysctl %s=%q", s.key, s.val)
	case hostLinkUp:
		return fmt.Sprintf("ip link set %s up", s.c.HostLink)
	case linkUp:
		return fmt.Sprintf("ip -n pod link set %s up", link)
	case deleteAddress:
		return fmt.Sprintf("ip -n pod addr delete %s dev %s", s.prefix, link)
	case addAddress:
		return fmt.Sprintf("ip -n pod addr replace %s dev %s nodad", s.prefix, link)
	case deleteRoute:
		return fmt.Sprintf("%s route delete %s dev %s", s.route.ip(), s.route.text(), link)
	case addRoute:
		return fmt.Sprintf("%s route replace %s dev %s", s.route.ip(), s.route.text(), link)
	case setNeighbour:
		return fmt.Sprintf("ip -n pod neigh replace %s dev %s", s.neighbour.text(), link)
	}
	return fmt.Sprintf("action %d", s.do)
}

func (s step) pairCommand() string {
	var b strings.Builder
	fmt.Fprintf(&b, "ip link add %s address fe:ff:$RANDOM", s.c.HostLink)
	if s.mtu != 0 {
		fmt.Fprintf(&b, " mtu %d", s.mtu)
	}
	fmt.Fprintf(&b, " type veth peer name %s netns pod", s.c.link())
	if s.c.MAC != "" {
		fmt.Fprintf(&b, " address %s", s.c.MAC)
	}
	if s.mtu != 0 {
		fmt.Fprintf(&b, " mtu %d", s.mtu)
	}
	return b.String()
}

// ip is the beginning of a route command: a default route does not show its family.
func (r Route) ip() string {
	if r.Destination.Addr().Is6() {
		return "ip -6 -n pod"
	}
	return "ip -n pod"
}

func (r Route) text() string {
	s := r.Destination.String()
	if r.Destination.Bits() == 0 {
		s = "default"
	}
	if r.Gateway.IsValid() {
		s += " via " + r.Gateway.String()
	}
	if r.Source.IsValid() {
		s += " src " + r.Source.String()
	}
	for _, f := range []struct {
		name  string
		value int
	}{{"metric", r.Metric}, {"table", r.Table}, {"mtu", r.MTU}, {"advmss", r.AdvMSS}, {"initcwnd", r.InitCwnd}} {
		if f.value != 0 {
			s += fmt.Sprintf(" %s %d", f.name, f.value)
		}
	}
	if r.OnLink {
		s += " onlink"
	}
	return s
}

func (n Neighbour) text() string {
	s := n.Address.String() + " lladdr " + n.MAC
	if n.Router {
		s += " router"
	}
	if n.Permanent {
		return s + " nud permanent"
	}
	return s + " nud stale"
}

// Commands returns the ip commands that would make a fresh namespace, called pod, what c says,
// Attach included. It needs no rights: tests of other packages compare it.
func (c Config) Commands() []string {
	var out []string
	for _, s := range plan(state{}, c) {
		out = append(out, s.String())
	}
	if c.Bridge != "" {
		out = append(out, fmt.Sprintf("ip link set %s master %s", c.HostLink, c.Bridge))
	}
	return out
}

// String returns Commands, one a line.
func (c Config) String() string {
	return strings.Join(c.Commands(), "\n") + "\n"
}
