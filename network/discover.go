package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrHost says that a process is in the host's network namespace and has none of its own.
var ErrHost = errors.New("it is the host's")

// UnfitError says what in a namespace is of no kind that could be made anew on another host.
type UnfitError struct {
	Link   string // in the namespace
	Reason string
}

func (e *UnfitError) Error() string { return fmt.Sprintf("link %s %s", e.Link, e.Reason) }

// Discover looks at a namespace that somebody else has set up, as a container engine does, and returns what connects it: one veth pair
// with its host's end in a bridge, and all that Snapshot tells. The result is nil when there is nothing but loopback; an *UnfitError
// says what is not of that kind. What Network knows of its configuration does not change.
func Discover(ctx context.Context, n *Network, fresh Fresh) (*Config, error) {
	n.mu.Lock()
	cfg, err := n.discover()
	n.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("look at the pod's network: %w", err)
	}
	if cfg == nil {
		return nil, nil
	}
	now, err := Snapshot(ctx, n, *cfg, fresh)
	if err != nil {
		return nil, fmt.Errorf("look at the pod's network: %w", err)
	}
	return &now, nil
}

// discover finds the pair's ends and the bridge.
func (n *Network) discover() (*Config, error) {
	links, err := dump(n.pod.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var own netlink.Link
	for _, l := range links {
		idle, err := n.idle(l)
		switch {
		case err != nil:
			return nil, err
		case idle:
		case l.Type() != "veth":
			return nil, &UnfitError{l.Attrs().Name, fmt.Sprintf("is of type %s, not veth", l.Type())}
		case own != nil:
			return nil, &UnfitError{l.Attrs().Name, "is a second one beside " + own.Attrs().Name}
		default:
			own = l
		}
	}
	if own == nil {
		return nil, nil
	}
	return n.otherEnd(own.Attrs())
}

// idle says whether a link does not matter: loopback, and those that modules of the kernel put into every namespace.
func (n *Network) idle(l netlink.Link) (bool, error) {
	a := l.Attrs()
	if a.Flags&net.FlagLoopback != 0 {
		return true, nil
	}
	if l.Type() == "veth" || a.Flags&net.FlagUp != 0 {
		return false, nil
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return n.pod.AddrList(l, netlink.FAMILY_ALL) })
	if err != nil {
		return false, fmt.Errorf("list addresses: %w", err)
	}
	return len(addrs) == 0, nil
}

// otherEnd finds the host's end of a pair, and the bridge that it is in.
func (n *Network) otherEnd(own *netlink.LinkAttrs) (*Config, error) {
	peer, err := n.host.LinkByIndex(own.ParentIndex)
	if err != nil && !isNotFound(err) {
		return nil, fmt.Errorf("find the other end of link %s: %w", own.Name, err)
	}
	id, err := n.host.GetNetNsIdByFd(int(n.ns.Fd()))
	if err != nil {
		return nil, fmt.Errorf("find the other end of link %s: %w", own.Name, err)
	}
	// An index is good for one namespace only: the link that has it here must lead back.
	if peer == nil || peer.Type() != "veth" || peer.Attrs().ParentIndex != own.Index || peer.Attrs().NetNsID != id {
		return nil, &UnfitError{own.Name, "has its other end in a namespace that is not the host's"}
	}
	cfg := &Config{HostLink: peer.Attrs().Name, Link: own.Name}
	if peer.Attrs().MasterIndex == 0 {
		return nil, &UnfitError{own.Name, "has its other end, " + cfg.HostLink + ", in no bridge"}
	}
	master, err := n.host.LinkByIndex(peer.Attrs().MasterIndex)
	switch {
	case err != nil:
		return nil, fmt.Errorf("find the bridge of %s: %w", cfg.HostLink, err)
	case master.Type() != "bridge":
		return nil, &UnfitError{own.Name, fmt.Sprintf("has its other end in %s, which is of type %s, not bridge", master.Attrs().Name, master.Type())}
	}
	cfg.Bridge = master.Attrs().Name
	return cfg, nil
}

// Users returns the processes that are in the namespace.
func (n *Network) Users() ([]int, error) {
	want, err := n.ns.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at network namespace: %w", err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		have, err := os.Stat("/proc/" + e.Name() + "/ns/net")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EACCES) {
			continue // it has ended, or is about to
		}
		if err != nil {
			return nil, fmt.Errorf("look at process %d: %w", pid, err)
		}
		if os.SameFile(want, have) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
