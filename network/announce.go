package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Announce tells the link where the pod is: for every address, a gratuitous ARP request and reply,
// or an unsolicited neighbour advertisement, sent from the pod's end. Bridges and switches learn
// the port from it, neighbours the link address. A closed gate lets it pass; a lock does not.
func (n *Network) Announce(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	link, err := n.pod.LinkByName(n.cfg.link())
	if err != nil {
		return fmt.Errorf("announce addresses: find link %s in the pod: %w", n.cfg.link(), err)
	}
	addrs, err := n.pod.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("announce addresses: list addresses: %w", err)
	}
	if err := n.openSpeaker(link.Attrs().Index); err != nil {
		return fmt.Errorf("announce addresses: %w", err)
	}
	var errs []error
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			for _, frame := range announcements(link.Attrs().HardwareAddr, p.Addr()) {
				errs = append(errs, n.speaker.send(frame))
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("announce addresses: %w", err)
	}
	return nil
}

func (n *Network) openSpeaker(link int) error {
	if n.speaker != nil && n.speaker.link == link {
		return nil
	}
	if n.speaker != nil {
		_ = n.speaker.Close()
		n.speaker = nil
	}
	return inside(n.ns, func() (err error) {
		n.speaker, err = newPacketSocket(link, 0)
		return err
	})
}

// announcements returns the frames, each after an empty virtio header, that announce one address.
func announcements(mac net.HardwareAddr, address netip.Addr) [][]byte {
	if address.Is4() {
		return [][]byte{gratuitousARP(mac, address, 1), gratuitousARP(mac, address, 2)}
	}
	return [][]byte{unsolicitedNA(mac, address)}
}

// gratuitousARP is an ARP request (operation 1) or reply (2) in which the address speaks of itself
// (RFC 5227, RFC 826).
func gratuitousARP(mac net.HardwareAddr, address netip.Addr, operation byte) []byte {
	broadcast := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	f := make([]byte, virtioHeader, virtioHeader+60)
	f = append(f, broadcast...)
	f = append(f, mac...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_ARP)
	f = append(f, 0, 1, 8, 0, 6, 4, 0, operation)
	f = append(f, mac...)
	f = append(f, address.AsSlice()...)
	if operation == 1 {
		f = append(f, 0, 0, 0, 0, 0, 0)
	} else {
		f = append(f, broadcast...)
	}
	f = append(f, address.AsSlice()...)
	return f[:cap(f)]
}

// unsolicitedNA is a neighbour advertisement to all nodes with the override flag (RFC 4861, 7.2.6).
func unsolicitedNA(mac net.HardwareAddr, address netip.Addr) []byte {
	allNodes := netip.IPv6LinkLocalAllNodes()
	const override, optionTargetLink = 0x20, 2
	body := []byte{136, 0, 0, 0, override, 0, 0, 0}
	body = append(body, address.AsSlice()...)
	body = append(body, optionTargetLink, 1)
	body = append(body, mac...)
	binary.BigEndian.PutUint16(body[2:], checksum6(address, allNodes, protocolICMPv6, body))

	f := make([]byte, virtioHeader)
	f = append(f, 0x33, 0x33, 0, 0, 0, 1)
	f = append(f, mac...)
	f = binary.BigEndian.AppendUint16(f, unix.ETH_P_IPV6)
	f = append(f, 0x60, 0, 0, 0, 0, byte(len(body)), protocolICMPv6, 255)
	f = append(f, address.AsSlice()...)
	f = append(f, allNodes.AsSlice()...)
	return append(f, body...)
}

// checksum6 is the internet checksum over the IPv6 pseudo header and body (RFC 8200, 8.1).
func checksum6(from, to netip.Addr, protocol byte, body []byte) uint16 {
	pseudo := append(from.AsSlice(), to.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(body)))
	pseudo = append(pseudo, 0, 0, 0, protocol)
	var sum uint32
	for _, part := range [][]byte{pseudo, body} { // both of even length
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
