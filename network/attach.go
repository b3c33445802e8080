package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Attach takes the host's end up and into the bridge: from now on frames for the pod arrive. It is
// one netlink request after Set. Without a bridge in the configuration it only takes the end up.
func (n *Network) Attach(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.findLinks(); err != nil {
		return err
	}
	attrs := netlink.LinkAttrs{Index: n.hostLink}
	if err := n.host.LinkSetUp(&netlink.Device{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("set link %s up: %w", n.cfg.HostLink, err)
	}
	if n.cfg.Bridge == "" {
		return nil
	}
	bridge, err := n.host.LinkByName(n.cfg.Bridge)
	if err == nil && bridge.Type() != "bridge" {
		err = fmt.Errorf("it is of type %s", bridge.Type())
	}
	if err == nil {
		err = n.host.LinkSetMasterByIndex(indexed(n.hostLink), bridge.Attrs().Index)
	}
	if err != nil {
		return fmt.Errorf("attach %s to bridge %s: %w", n.cfg.HostLink, n.cfg.Bridge, err)
	}
	return nil
}

// Detach takes the host's end out of the bridge; the pair stays. It is no error if there is none.
func (n *Network) Detach(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	link, err := linkOrNil(n.host, n.cfg.HostLink)
	if err != nil || link == nil || link.Attrs().MasterIndex == 0 {
		return err
	}
	if err := n.host.LinkSetNoMaster(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("detach %s from its bridge: %w", n.cfg.HostLink, err)
	}
	return nil
}
