package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table that holds single connections back. It may be in any namespace, the host's included, and
// all containers of a namespace share it.
const (
	connectionsTable = "zap-connections"
	setV4            = "v4"
	setV6            = "v6"
	setPorts         = "ports"
)

const (
	// holdConnections is how long a connection is held when nobody releases it: longer than TCP tries to
	// get through (net.ipv4.tcp_retries2, some 15 minutes), so that a reset hurts nobody any more.
	holdConnections = time.Hour
	// holdPorts is the same for listening ports, which are held during a dump only.
	holdPorts = time.Minute
)

// Connection is a TCP connection by its two ends.
type Connection struct{ Local, Remote netip.AddrPort }

// HoldConnections drops silently what comes for the connections and what is sent on them, in network
// namespace ns, and requests for new connections to ports. While a connection's socket is in repair
// mode, or not there because its owner is saved on disk, the kernel would answer its peer with a reset.
// Everything else in the namespace goes on. What nobody releases is held for a bounded time: a
// connection for an hour, a port for a minute.
func HoldConnections(ns *os.File, connections []Connection, ports []uint16) error {
	if len(connections)+len(ports) == 0 {
		return nil
	}
	h, err := newHeldTable(ns)
	if err != nil {
		return fmt.Errorf("hold connections: %w", err)
	}
	defer h.close()
	if err := h.make(); err != nil {
		return fmt.Errorf("hold connections: %w", err)
	}
	for name, elements := range elementsOf(connections, ports) {
		if err := h.conn.SetAddElements(h.sets[name], elements); err != nil {
			return fmt.Errorf("hold connections: %w", err)
		}
	}
	if err := h.conn.Flush(); err != nil {
		return fmt.Errorf("hold connections: %w", err)
	}
	return nil
}

// ReleaseConnections undoes HoldConnections for these connections and ports. What is not held is passed
// over. When nothing is held in the namespace any more, nothing is left there.
func ReleaseConnections(ns *os.File, connections []Connection, ports []uint16) error {
	if len(connections)+len(ports) == 0 {
		return nil
	}
	h, err := newHeldTable(ns)
	if err != nil {
		return fmt.Errorf("release connections: %w", err)
	}
	defer h.close()
	if err := h.release(elementsOf(connections, ports)); err != nil {
		return fmt.Errorf("release connections: %w", err)
	}
	return nil
}

// heldTable is the table in one namespace.
type heldTable struct {
	conn  *nftables.Conn
	table *nftables.Table
	sets  map[string]*nftables.Set
}

func newHeldTable(ns *os.File) (*heldTable, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(int(ns.Fd())), nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables socket: %w", err)
	}
	t := &nftables.Table{Name: connectionsTable, Family: nftables.TableFamilyINet}
	set := func(name string, key nftables.SetDatatype, timeout time.Duration) *nftables.Set {
		return &nftables.Set{Table: t, Name: name, KeyType: key, Concatenation: name != setPorts, HasTimeout: true, Timeout: timeout}
	}
	port := nftables.TypeInetService
	return &heldTable{conn: conn, table: t, sets: map[string]*nftables.Set{
		setV4:    set(setV4, nftables.MustConcatSetType(nftables.TypeIPAddr, port, nftables.TypeIPAddr, port), holdConnections),
		setV6:    set(setV6, nftables.MustConcatSetType(nftables.TypeIP6Addr, port, nftables.TypeIP6Addr, port), holdConnections),
		setPorts: set(setPorts, port, holdPorts),
	}}, nil
}

func (h *heldTable) close() { _ = h.conn.CloseLasting() }

// make makes the table, unless it is there.
func (h *heldTable) make() error {
	c := h.conn
	c.CreateTable(h.table)
	for _, s := range h.sets {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	chain := func(name string, hook *nftables.ChainHook) *nftables.Chain {
		return c.AddChain(&nftables.Chain{
			Name: name, Table: h.table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRef(hookPriority),
		})
	}
	in, out := chain(chainIn, nftables.ChainHookInput), chain(chainOut, nftables.ChainHookOutput)
	for _, v6 := range []bool{false, true} {
		c.AddRule(&nftables.Rule{Table: h.table, Chain: in, Exprs: h.dropConnection(v6, true)})
		c.AddRule(&nftables.Rule{Table: h.table, Chain: out, Exprs: h.dropConnection(v6, false)})
	}
	c.AddRule(&nftables.Rule{Table: h.table, Chain: in, Exprs: h.dropRequest()})
	if err := c.Flush(); err != nil && !errors.Is(err, unix.EEXIST) {
		return hookError(err)
	}
	return nil
}

// tcp matches packets of TCP.
func tcp() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, equals(unix.IPPROTO_TCP)}
}

// dropConnection drops the packets of the connections in a set, whose elements begin with the local
// end: of what comes in that is the destination.
func (h *heldTable) dropConnection(v6, in bool) []expr.Any {
	set, family, length, source, destination := setV4, byte(unix.NFPROTO_IPV4), uint32(4), uint32(12), uint32(16)
	if v6 {
		set, family, length, source, destination = setV6, unix.NFPROTO_IPV6, 16, 8, 24
	}
	local, remote, localPort, remotePort := source, destination, uint32(0), uint32(2)
	if in {
		local, remote, localPort, remotePort = destination, source, 2, 0
	}
	key := uint32(unix.NFT_REG32_00) // each part of a key begins at a 4-byte register
	part := func(base expr.PayloadBase, offset, size uint32) expr.Any {
		e := &expr.Payload{OperationType: expr.PayloadLoad, DestRegister: key, Base: base, Offset: offset, Len: size}
		key += (size + 3) / 4
		return e
	}
	return rule(
		[]expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, equals(family)}, tcp(),
		[]expr.Any{
			part(expr.PayloadBaseNetworkHeader, local, length), part(expr.PayloadBaseTransportHeader, localPort, 2),
			part(expr.PayloadBaseNetworkHeader, remote, length), part(expr.PayloadBaseTransportHeader, remotePort, 2),
			&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: set, SetID: h.sets[set].ID},
			verdict(expr.VerdictDrop),
		},
	)
}

// dropRequest drops requests for connections, SYN without ACK, to the ports in the set.
func (h *heldTable) dropRequest() []expr.Any {
	const syn, ack = 0x02, 0x10
	return rule(tcp(), []expr.Any{
		load(expr.PayloadBaseTransportHeader, 13, 1),
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 1, Mask: []byte{syn | ack}, Xor: []byte{0}},
		equals(syn),
		load(expr.PayloadBaseTransportHeader, 2, 2),
		&expr.Lookup{SourceRegister: reg, SetName: setPorts, SetID: h.sets[setPorts].ID},
		verdict(expr.VerdictDrop),
	})
}

// release takes elements out, and then the table if it is empty.
func (h *heldTable) release(elements map[string][]nftables.SetElement) error {
	tables, err := h.conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return err
	}
	there := false
	for _, t := range tables {
		there = there || t.Name == connectionsTable
	}
	if !there {
		return nil
	}
	left := 0
	for name, s := range h.sets {
		now, err := h.conn.GetSetElements(s)
		if err != nil {
			return err
		}
		out := common(now, elements[name])
		left += len(now) - len(out)
		if len(out) == 0 {
			continue
		}
		if err := h.conn.SetDeleteElements(s, out); err != nil {
			return err
		}
	}
	if left == 0 {
		h.conn.DelTable(h.table)
	}
	return h.conn.Flush()
}

// common returns the elements of b that are in a, each once.
func common(a, b []nftables.SetElement) []nftables.SetElement {
	have := make(map[string]bool, len(a))
	for _, e := range a {
		have[string(e.Key)] = true
	}
	var out []nftables.SetElement
	for _, e := range b {
		if have[string(e.Key)] {
			have[string(e.Key)] = false
			out = append(out, e)
		}
	}
	return out
}

// elementsOf returns the elements of each set.
func elementsOf(connections []Connection, ports []uint16) map[string][]nftables.SetElement {
	out := map[string][]nftables.SetElement{}
	for _, c := range connections {
		local, remote := c.Local.Addr().Unmap(), c.Remote.Addr().Unmap()
		if local.Is4() != remote.Is4() {
			continue
		}
		set := setV6
		if local.Is4() {
			set = setV4
		}
		key := append(local.AsSlice(), portKey(c.Local.Port())...)
		key = append(append(key, remote.AsSlice()...), portKey(c.Remote.Port())...)
		out[set] = append(out[set], nftables.SetElement{Key: key})
	}
	for _, p := range ports {
		out[setPorts] = append(out[setPorts], nftables.SetElement{Key: portKey(p)[:2]})
	}
	return out
}

// portKey is a port as a part of a key, four bytes long.
func portKey(port uint16) []byte {
	return append(binary.BigEndian.AppendUint16(nil, port), 0, 0)
}
