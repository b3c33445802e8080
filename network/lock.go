package network

import (
	"context"
	"fmt"

	"github.com/google/nftables"
)

// Arm prepares the lock, so that Mute and Lock are one small request each: a table in the pod's
// namespace with a chain for each direction that accepts everything. Where a lock is in place it
// stays.
func (n *Network) Arm(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.arm()
}

func (n *Network) arm() error {
	c, err := n.firewall()
	if err != nil {
		return err
	}
	t, link := table(lockTable), n.cfg.link()
	c.AddTable(t)
	c.AddChain(netdevChain(t, chainIn, link, nftables.ChainHookIngress, nil))
	c.AddChain(netdevChain(t, chainOut, link, nftables.ChainHookEgress, nil))
	if err := c.Flush(); err != nil {
		return fmt.Errorf("prepare network lock: %w", hookError(err))
	}
	return nil
}

// Mute drops silently what the pod sends, while it still receives. Between the freeze and the
// target's announcement it keeps the source's kernel, which answers for a frozen pod, from drawing
// the traffic back.
func (n *Network) Mute(ctx context.Context) error {
	return n.lock(ctx, chainOut)
}

// Lock drops silently what the pod sends and what is sent to it, ARP and neighbour discovery
// included. It may be repeated. The lock is the namespace's: it survives the process that made it
// and ends with Unlock or with the namespace.
func (n *Network) Lock(ctx context.Context) error {
	return n.lock(ctx, chainOut, chainIn)
}

func (n *Network) lock(ctx context.Context, chains ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c, err := n.firewall()
	if err != nil {
		return err
	}
	try := func() error {
		drop := nftables.ChainPolicyDrop
		for _, name := range chains {
			c.AddChain(&nftables.Chain{Name: name, Table: table(lockTable), Policy: &drop})
		}
		return c.Flush()
	}
	if err := try(); err == nil {
		return nil
	}
	if err := n.arm(); err != nil { // nobody had armed it
		return err
	}
	if err := try(); err != nil {
		return fmt.Errorf("lock network: %w", err)
	}
	return nil
}

// Unlock lets frames pass again and removes all that Arm, Mute and Lock made. It is no error if
// there is nothing. To draw back traffic that went elsewhere meanwhile, Announce afterwards.
func (n *Network) Unlock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.deleteTable(lockTable); err != nil {
		return fmt.Errorf("unlock network: %w", err)
	}
	return nil
}

// Locked reports whether both directions are locked, by whichever process.
func (n *Network) Locked() (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, chain := range []string{chainIn, chainOut} {
		if p, err := n.chainPolicy(lockTable, chain); err != nil || p != nftables.ChainPolicyDrop {
			return false, err
		}
	}
	return true, nil
}
