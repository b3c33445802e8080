package network

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// ParseFlag reads what --network takes:
// bridge=BR,ip=CIDR[,ip=CIDR...][,mac=MAC][,gateway=IP...][,mtu=BYTES]. Addresses and gateways may
// be of either family. Without mac a random, locally administered one is made. HostLink is left
// empty, for the caller to choose.
func ParseFlag(s string) (*Config, error) {
	c := &Config{Link: DefaultLink}
	for _, field := range strings.Split(s, ",") {
		key, value, ok := strings.Cut(strings.TrimSpace(field), "=")
		if !ok || value == "" {
			return nil, fmt.Errorf("parse network %q: %q is not of the form key=value", s, field)
		}
		if err := c.parseField(key, value); err != nil {
			return nil, fmt.Errorf("parse network %q: %w", s, err)
		}
	}
	if c.Bridge == "" {
		return nil, fmt.Errorf("parse network %q: bridge= is missing", s)
	}
	if len(c.Addresses) == 0 {
		return nil, fmt.Errorf("parse network %q: ip= is missing", s)
	}
	for _, g := range c.Gateways {
		if !c.hasFamily(g) {
			return nil, fmt.Errorf("parse network %q: gateway %s is of a family that no ip= has", s, g)
		}
	}
	if c.MAC == "" {
		c.MAC = randomMAC()
	}
	return c, nil
}

func (c *Config) parseField(key, value string) error {
	switch key {
	case "bridge":
		if c.Bridge != "" {
			return fmt.Errorf("bridge is given twice")
		}
		c.Bridge = value
		return checkLinkName(value)
	case "ip":
		return c.parseIP(value)
	case "mac":
		if c.MAC != "" {
			return fmt.Errorf("mac is given twice")
		}
		mac, err := parseMAC(value)
		c.MAC = mac.String()
		return err
	case "gateway":
		g, err := netip.ParseAddr(value)
		if err != nil || !plainAddr(g) || g.Zone() != "" {
			return fmt.Errorf("gateway %q is not an IP address", value)
		}
		for _, other := range c.Gateways {
			if other.Is4() == g.Is4() {
				return fmt.Errorf("gateways %s and %s are of the same family", other, g)
			}
		}
		c.Gateways = append(c.Gateways, g)
		return nil
	case "mtu":
		if _, err := fmt.Sscanf(value, "%d", &c.MTU); err != nil || c.MTU < 68 || c.MTU > 65535 || fmt.Sprint(c.MTU) != value {
			return fmt.Errorf("mtu %q is not a number between 68 and 65535", value)
		}
		return nil
	}
	return fmt.Errorf("unknown key %q (bridge, ip, mac, gateway, mtu)", key)
}

func (c *Config) parseIP(value string) error {
	p, err := netip.ParsePrefix(value)
	if err != nil {
		return fmt.Errorf("ip %q is not an address with its prefix length, like 10.0.0.2/24 or fd00::2/64", value)
	}
	if !plainAddr(p.Addr()) {
		return fmt.Errorf("ip %q is not a host's address", value)
	}
	if p.Addr().Is4() && p.Bits() < 31 && p.Addr() == p.Masked().Addr() {
		return fmt.Errorf("ip %q is the network's address, not a host's", value)
	}
	for _, a := range c.Addresses {
		if a.Addr() == p.Addr() {
			return fmt.Errorf("ip %s is given twice", p.Addr())
		}
	}
	c.Addresses = append(c.Addresses, p)
	return nil
}

func (c *Config) hasFamily(a netip.Addr) bool {
	for _, p := range c.Addresses {
		if p.Addr().Is4() == a.Is4() {
			return true
		}
	}
	return false
}

func randomMAC() string {
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac)        // never fails
	mac[0] = mac[0]&^0x03 | 0x02 // one station, locally administered
	return mac.String()
}
