package network

import (
	"context"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Marks of frames inside the pod's namespace while the gate is closed; none leaves it, since
// crossing a veth clears the mark.
const (
	markArrived uint32 = 0x7a617001 // turned aside on its way in
	markLeaving uint32 = 0x7a617002 // turned aside on its way out
	markInject  uint32 = 0x7a617003 // sent by Release: passes
)

const (
	loopbackIndex  = 1 // of lo, in every namespace
	protocolICMPv6 = 58
)

// Gate closes the gate of a target, after Set and before Attach: of what arrives and what the pod
// sends only ARP, neighbour discovery and multicast listener reports pass, so that the address is
// announced and answered for; everything else goes silently to the Holder, or nowhere if there is
// none. The gate is the namespace's: it survives the process that made it. Repeating it changes
// nothing.
func (n *Network) Gate(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.lingers.Wait() // for the Holder of a gate before this one
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.gate(); err != nil {
		return fmt.Errorf("close network gate: %w", hookError(err))
	}
	if err := n.findLinks(); err != nil {
		return err
	}
	return n.openSpeaker(n.podLink) // Announce comes when time counts
}

// Gated reports whether the gate is closed, by whichever process.
func (n *Network) Gated() (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, err := n.chainPolicy(gateTable, chainIn)
	return p == nftables.ChainPolicyDrop, err
}

// Ungate opens the gate without delivering anything and removes it: for a Holder that is gone. It
// is no error if there is none.
func (n *Network) Ungate(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gated = false
	if err := n.deleteTable(gateTable); err != nil {
		return fmt.Errorf("open network gate: %w", err)
	}
	return nil
}

// gate first drops everything and then adds what may pass, and what is turned aside last.
func (n *Network) gate() error {
	c, err := n.firewall()
	if err != nil {
		return err
	}
	t, drop, link := table(gateTable), nftables.ChainPolicyDrop, n.cfg.link()
	in := netdevChain(t, chainIn, link, nftables.ChainHookIngress, &drop)
	out := netdevChain(t, chainOut, link, nftables.ChainHookEgress, &drop)
	loop := netdevChain(t, chainLoop, "lo", nftables.ChainHookIngress, nil)
	c.AddTable(t)
	for _, chain := range []*nftables.Chain{in, out, loop} {
		c.AddChain(chain)
		c.FlushChain(chain)
	}
	add := func(chain *nftables.Chain, exprs ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: rule(exprs...)})
	}
	accept, discard := []expr.Any{verdict(expr.VerdictAccept)}, []expr.Any{verdict(expr.VerdictDrop)}
	add(in, injectedSource(), accept)
	add(in, notForUs(), discard)
	add(out, markIs(markInject), accept)
	for _, chain := range []*nftables.Chain{in, out} {
		add(chain, protocolIs(unix.ETH_P_ARP), accept)
		add(chain, neighbourDiscovery(), accept)
		add(chain, listenerReport(), accept)
	}
	// What was turned aside is seen when lo sends it and must not be received there.
	add(loop, markIs(markArrived), discard)
	add(loop, markIs(markLeaving), discard)
	if err := c.Flush(); err != nil {
		return err
	}
	if err := n.addForwardRule(in, loopbackIndex, setMark(markArrived)); err != nil {
		return err
	}
	if err := n.addForwardRule(out, loopbackIndex, setMark(markLeaving)); err != nil {
		return err
	}
	n.gated = true
	return nil
}

// openGate lets everything pass by one rule before all others. That is quicker than deleting the
// table, and what arrives meanwhile is overtaken by what follows it.
func (n *Network) openGate() error {
	c, err := n.firewall()
	if err != nil {
		return err
	}
	t, accept := table(gateTable), nftables.ChainPolicyAccept
	for _, name := range []string{chainIn, chainOut} {
		chain := c.AddChain(&nftables.Chain{Name: name, Table: t, Policy: &accept})
		c.InsertRule(&nftables.Rule{Table: t, Chain: chain, Exprs: []expr.Any{verdict(expr.VerdictAccept)}})
	}
	return c.Flush()
}

// injectedSource matches frames whose source address has the group bit set, which no frame has that
// came over a bridge, and clears the bit: that is how Release marks the frames it sends in from the
// host's end, where no other mark survives the way.
func injectedSource() []expr.Any {
	const source, group = 6, 1
	one := func(mask, xor byte) expr.Any {
		return &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 1, Mask: []byte{mask}, Xor: []byte{xor}}
	}
	return []expr.Any{
		load(expr.PayloadBaseLLHeader, source, 1), one(group, 0), equals(group),
		load(expr.PayloadBaseLLHeader, source, 1), one(^byte(group), 0),
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: reg, Base: expr.PayloadBaseLLHeader, Offset: source, Len: 1},
	}
}

// notForUs matches what a bridge floods and the pod's link would not take.
func notForUs() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyPKTTYPE, Register: reg}, equals(unix.PACKET_OTHERHOST)}
}

// neighbourDiscovery matches ICMPv6 router and neighbour solicitations and advertisements, and
// redirects.
func neighbourDiscovery() []expr.Any {
	const nextHeader, icmpType = 6, 40
	return rule(protocolIs(unix.ETH_P_IPV6), []expr.Any{
		load(expr.PayloadBaseNetworkHeader, nextHeader, 1), equals(protocolICMPv6),
		load(expr.PayloadBaseNetworkHeader, icmpType, 1), between(133, 137),
	})
}

// listenerReport matches ICMPv6 multicast listener queries and reports, which follow an eight-byte
// hop-by-hop header: switches that snoop them need the reports in order to pass on neighbour
// solicitations.
func listenerReport() []expr.Any {
	const nextHeader, afterOptions, icmpType = 6, 40, 48
	return rule(protocolIs(unix.ETH_P_IPV6), []expr.Any{
		load(expr.PayloadBaseNetworkHeader, nextHeader, 1), equals(0),
		load(expr.PayloadBaseNetworkHeader, afterOptions, 1), equals(protocolICMPv6),
		load(expr.PayloadBaseNetworkHeader, icmpType, 1), between(130, 143),
	})
}
