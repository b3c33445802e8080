package network

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// Bridges lists the bridges of the caller's network namespace by name.
func Bridges() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := []string{}
	for _, l := range links {
		if l.Type() == "bridge" {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}
