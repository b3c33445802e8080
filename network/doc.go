// Package network is a pod's network identity as desired state: a namespace, one veth pair into a
// bridge, and the addresses, routes, neighbours and sysctls that belong to the pod and travel with it.
//
// [Network.Set] computes the difference between what is there and a [Config] and applies only that,
// so it can be repeated at any time. Everything that cuts a pod off for a move lives in nftables
// inside the pod's own namespace and vanishes with it:
//
//   - The lock (source): [Network.Mute] and [Network.Lock] drop silently what leaves, or leaves and
//     arrives.
//   - The gate (target): [Network.Gate] lets only ARP and IPv6 neighbour discovery pass and turns
//     every other frame, in either direction, aside into the namespace's loopback link, where a
//     [Holder] picks it up. A frame is turned aside or it passes, never both and never neither, so
//     [Holder.Release] delivers each exactly once.
//
// The order of a move that loses no frame is: the source freezes the pod and mutes it; the target
// attaches and announces; the source locks. With the lock before the announcement, what arrives in
// between is lost and comes again only when the client's retransmission timer, 200 ms at least, has
// passed.
//
// The host's own state is one link, which [RemoveLink] deletes by name. A Network remembers the
// namespace that its maker's thread was in; that is the host's side of the pair. It needs root, and
// for lock and gate Linux 5.16 or later, with nftables' netdev hooks and fwd expression.
package network
