package network

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Bounds of a Config that comes from a peer.
const (
	maxAddresses  = 1024
	maxRoutes     = 16384
	maxNeighbours = 65536
	maxSysctls    = 4096
	maxLinkName   = 15 // IFNAMSIZ without its final zero
)

// DefaultLink is the name of the pod's end when Config.Link is empty.
const DefaultLink = "eth0"

// Config is the network identity of a pod: plain data that is stored, sent to a peer and compared.
type Config struct {
	Bridge     string            `json:"bridge,omitempty"`     // bridge on the host that Attach joins; empty: none
	HostLink   string            `json:"hostLink,omitempty"`   // name of the host's end, unique per root and pod, at most 15 bytes
	Link       string            `json:"link,omitempty"`       // name of the pod's end; empty: eth0
	MAC        string            `json:"mac,omitempty"`        // of the pod's end; empty: whatever it has
	MTU        int               `json:"mtu,omitempty"`        // bytes, of both ends; 0: the bridge's at first, then what it has
	Addresses  []netip.Prefix    `json:"addresses,omitempty"`  // on the pod's end, with the length of their subnet
	Gateways   []netip.Addr      `json:"gateways,omitempty"`   // plain default routes
	Routes     []Route           `json:"routes,omitempty"`     // all other routes through the pod's end
	Neighbours []Neighbour       `json:"neighbours,omitempty"` // link addresses the pod knows
	Sysctls    map[string]string `json:"sysctls,omitempty"`    // of the namespace, by dotted name: net.core.somaxconn
}

// Route is one unicast route through the pod's end.
type Route struct {
	Destination netip.Prefix `json:"destination"`
	Gateway     netip.Addr   `json:"gateway,omitzero"`   // zero: on the link
	Source      netip.Addr   `json:"source,omitzero"`    // preferred source address; zero: the kernel chooses
	Metric      int          `json:"metric,omitempty"`   // 0: the kernel's default (IPv4 0, IPv6 1024)
	Table       int          `json:"table,omitempty"`    // 0: main
	MTU         int          `json:"mtu,omitempty"`      // bytes; 0: the link's
	AdvMSS      int          `json:"advmss,omitempty"`   // bytes; 0: from the MTU
	InitCwnd    int          `json:"initcwnd,omitempty"` // segments; 0: the kernel's
	OnLink      bool         `json:"onlink,omitempty"`   // the gateway is on the link although no address says so
}

// Neighbour is one entry of the pod's ARP or neighbour table. Set makes entries stale, which are
// used at once and confirmed later, unless they are permanent.
type Neighbour struct {
	Address   netip.Addr `json:"address"`
	MAC       string     `json:"mac"`
	Permanent bool       `json:"permanent,omitempty"`
	Router    bool       `json:"router,omitempty"`
}

// Clone returns a deep copy.
func (c Config) Clone() Config {
	c.Addresses = slices.Clone(c.Addresses)
	c.Gateways = slices.Clone(c.Gateways)
	c.Routes = slices.Clone(c.Routes)
	c.Neighbours = slices.Clone(c.Neighbours)
	c.Sysctls = maps.Clone(c.Sysctls)
	return c
}

// Equal reports whether both say the same; the order of lists does not matter, nor whether an empty
// list is nil.
func (c Config) Equal(o Config) bool {
	return c.Bridge == o.Bridge && c.HostLink == o.HostLink && c.link() == o.link() && strings.EqualFold(c.MAC, o.MAC) && c.MTU == o.MTU &&
		sameSet(c.Addresses, o.Addresses) && sameSet(c.Gateways, o.Gateways) && sameSet(c.Routes, o.Routes) &&
		sameSet(c.Neighbours, o.Neighbours) && maps.Equal(c.Sysctls, o.Sysctls)
}

func sameSet[T comparable](a, b []T) bool {
	return len(missing(a, b)) == 0 && len(missing(b, a)) == 0
}

// missing returns the elements of a that b lacks, in order.
func missing[T comparable](a, b []T) []T {
	in := make(map[T]struct{}, len(b))
	for _, v := range b {
		in[v] = struct{}{}
	}
	var out []T
	for _, v := range a {
		if _, ok := in[v]; !ok {
			out = append(out, v)
		}
	}
	return out
}

func (c Config) link() string {
	if c.Link == "" {
		return DefaultLink
	}
	return c.Link
}

// Validate checks everything that can be checked without a kernel; a Config from a peer must pass
// it before use. All that is wrong is reported at once.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("check network config: "+format, a...)) }
	if c.HostLink == "" {
		bad("hostLink is empty")
	}
	for _, name := range []string{c.HostLink, c.link(), c.Bridge} {
		if err := checkLinkName(name); err != nil && name != "" {
			bad("%w", err)
		}
	}
	if c.link() == "lo" {
		bad("link lo is the loopback link")
	}
	if c.MAC != "" {
		if _, err := parseMAC(c.MAC); err != nil {
			bad("%w", err)
		}
	}
	if c.MTU != 0 && (c.MTU < 68 || c.MTU > 65535) {
		bad("mtu %d is not between 68 and 65535", c.MTU)
	}
	if len(c.Addresses) > maxAddresses || len(c.Gateways) > maxRoutes || len(c.Routes) > maxRoutes ||
		len(c.Neighbours) > maxNeighbours || len(c.Sysctls) > maxSysctls {
		bad("too many entries: %d addresses, %d gateways, %d routes, %d neighbours, %d sysctls",
			len(c.Addresses), len(c.Gateways), len(c.Routes), len(c.Neighbours), len(c.Sysctls))
	}
	return errors.Join(append(errs, c.validateEntries()...)...)
}

func (c Config) validateEntries() []error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("check network config: "+format, a...)) }
	for _, p := range c.Addresses {
		if !p.IsValid() || p.Addr().IsUnspecified() || p.Addr().IsMulticast() || p.Addr().Is4In6() {
			bad("address %s is not a host's", p)
		}
	}
	for _, g := range c.Gateways {
		if !plainAddr(g) {
			bad("gateway %s is not a host's address", g)
		}
	}
	for _, r := range c.Routes {
		if err := r.check(); err != nil {
			bad("%w", err)
		}
	}
	for _, n := range c.Neighbours {
		if !plainAddr(n.Address) {
			bad("neighbour %s is not a host's address", n.Address)
		} else if _, err := parseMAC(n.MAC); err != nil {
			bad("neighbour %s: %w", n.Address, err)
		}
	}
	for name, value := range c.Sysctls {
		if _, err := sysctlPath(name); err != nil {
			bad("%w", err)
		} else if len(value) > 4096 || strings.ContainsAny(value, "\x00\n") {
			bad("value of sysctl %s is not one line", name)
		}
	}
	return errs
}

func (r Route) check() error {
	switch {
	case !r.Destination.IsValid() || r.Destination.Addr().Is4In6():
		return fmt.Errorf("route %s has no destination", r.Destination)
	case r.Destination != r.Destination.Masked():
		return fmt.Errorf("route %s has host bits set", r.Destination)
	case r.Gateway.IsValid() && (!plainAddr(r.Gateway) || r.Gateway.Is4() != r.Destination.Addr().Is4()):
		return fmt.Errorf("route %s: gateway %s is not of its family", r.Destination, r.Gateway)
	case r.Source.IsValid() && r.Source.Is4() != r.Destination.Addr().Is4():
		return fmt.Errorf("route %s: source %s is not of its family", r.Destination, r.Source)
	case r.Metric < 0 || r.Table < 0 || r.MTU < 0 || r.AdvMSS < 0 || r.InitCwnd < 0:
		return fmt.Errorf("route %s has a negative number", r.Destination)
	}
	return nil
}

func plainAddr(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6()
}

func checkLinkName(name string) error {
	if name == "" || len(name) > maxLinkName || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n\x00") {
		return fmt.Errorf("link name %q is not 1 to %d bytes without slash, colon and white space", name, maxLinkName)
	}
	return nil
}

func parseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 || bytes.Equal(mac, make([]byte, 6)) {
		return nil, fmt.Errorf("mac %q is not the address of one ethernet device", s)
	}
	return mac, nil
}

// newHostMAC makes an address for a host's end. It starts high, so that a bridge whose own address
// is its ports' lowest keeps its own, and the rest is random: two hosts on one segment may use the
// same name for a pod, but must not have one address.
func newHostMAC() net.HardwareAddr {
	mac := net.HardwareAddr{0xfe, 0xff, 0, 0, 0, 0}
	_, _ = rand.Read(mac[2:]) // never fails
	return mac
}
