package network

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	mdl "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Both tables live in the pod's namespace.
const (
	lockTable = "zap-lock"
	gateTable = "zap-gate"
	chainIn   = "in"
	chainOut  = "out"
	chainLoop = "loop"
)

// hookPriority is before whatever the pod may have set up itself.
const hookPriority = -500

func table(name string) *nftables.Table {
	return &nftables.Table{Name: name, Family: nftables.TableFamilyNetdev}
}

// firewall returns the nftables connection into the pod's namespace.
func (n *Network) firewall() (*nftables.Conn, error) {
	if n.nft == nil {
		c, err := nftables.New(nftables.WithNetNSFd(int(n.ns.Fd())), nftables.AsLasting())
		if err != nil {
			return nil, fmt.Errorf("open nftables socket: %w", err)
		}
		n.nft = c
	}
	return n.nft, nil
}

// netdevChain describes a chain on device. Without a policy a new one accepts and one that is there
// keeps its own.
func netdevChain(t *nftables.Table, name, device string, hook *nftables.ChainHook, policy *nftables.ChainPolicy) *nftables.Chain {
	return &nftables.Chain{
		Name: name, Table: t, Type: nftables.ChainTypeFilter, Device: device, Policy: policy,
		Hooknum: hook, Priority: nftables.ChainPriorityRef(hookPriority),
	}
}

// deleteTable deletes the table; adding it in the same transaction makes that succeed when there is
// none.
func (n *Network) deleteTable(name string) error {
	c, err := n.firewall()
	if err != nil {
		return err
	}
	c.AddTable(table(name))
	c.DelTable(table(name))
	if err := c.Flush(); err != nil {
		return fmt.Errorf("delete nft table netdev %s: %w", name, err)
	}
	return nil
}

// chainPolicy returns a chain's policy; it is accept where there is no such chain.
func (n *Network) chainPolicy(tableName, chain string) (nftables.ChainPolicy, error) {
	c, err := n.firewall()
	if err != nil {
		return 0, err
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyNetdev)
	if err != nil {
		return 0, fmt.Errorf("list nft chains: %w", err)
	}
	for _, x := range chains {
		if x.Table.Name == tableName && x.Name == chain && x.Policy != nil {
			return *x.Policy, nil
		}
	}
	return nftables.ChainPolicyAccept, nil
}

// hookError explains what an old kernel answers to a chain at the egress hook.
func hookError(err error) error {
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w (nftables' netdev egress hook needs Linux 5.16 or later with CONFIG_NETFILTER_EGRESS)", err)
	}
	return err
}

// Registers that the rules use: each holds 16 bytes and what one rule loads no other one needs.
const reg = unix.NFT_REG_1

func native32(v uint32) []byte {
	return binary.NativeEndian.AppendUint32(nil, v)
}

func load(base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{OperationType: expr.PayloadLoad, DestRegister: reg, Base: base, Offset: offset, Len: length}
}

func equals(data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data}
}

func between(from, to byte) expr.Any {
	return &expr.Range{Op: expr.CmpOpEq, Register: reg, FromData: []byte{from}, ToData: []byte{to}}
}

func verdict(kind expr.VerdictKind) expr.Any { return &expr.Verdict{Kind: kind} }

func protocolIs(ethertype uint16) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: reg}, equals(byte(ethertype>>8), byte(ethertype))}
}

func markIs(mark uint32) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyMARK, Register: reg}, equals(native32(mark)...)}
}

func setMark(mark uint32) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: reg, Data: native32(mark)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg},
	}
}

func rule(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// addForwardRule appends the rule "exprs; fwd to link" to a chain. The fwd expression hands a frame
// over to another link and ends its way here; the nftables package does not know it, so the request
// is put together from its parts.
func (n *Network) addForwardRule(chain *nftables.Chain, link uint32, exprs []expr.Any) error {
	exprs = append(exprs, &expr.Immediate{Register: reg, Data: native32(link)})
	var list []mdl.Attribute
	for _, e := range exprs {
		b, err := expr.Marshal(byte(nftables.TableFamilyNetdev), e)
		if err != nil {
			return err
		}
		list = append(list, mdl.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: b})
	}
	const attrFwdDevice = 1 // NFTA_FWD_SREG_DEV
	device, err := mdl.MarshalAttributes([]mdl.Attribute{{Type: attrFwdDevice, Data: binary.BigEndian.AppendUint32(nil, reg)}})
	if err != nil {
		return err
	}
	forward, err := mdl.MarshalAttributes([]mdl.Attribute{
		{Type: unix.NFTA_EXPR_NAME, Data: []byte("fwd\x00")}, {Type: unix.NLA_F_NESTED | unix.NFTA_EXPR_DATA, Data: device},
	})
	if err != nil {
		return err
	}
	list = append(list, mdl.Attribute{Type: unix.NLA_F_NESTED | unix.NFTA_LIST_ELEM, Data: forward})
	body, err := mdl.MarshalAttributes(list)
	if err != nil {
		return err
	}
	attrs, err := mdl.MarshalAttributes([]mdl.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: []byte(chain.Table.Name + "\x00")},
		{Type: unix.NFTA_RULE_CHAIN, Data: []byte(chain.Name + "\x00")},
		{Type: unix.NLA_F_NESTED | unix.NFTA_RULE_EXPRESSIONS, Data: body},
	})
	if err != nil {
		return err
	}
	return n.transact(unix.NFT_MSG_NEWRULE, attrs)
}

// transact sends one nftables request as a transaction of its own.
func (n *Network) transact(message uint16, attrs []byte) error {
	conn, err := mdl.Dial(unix.NETLINK_NETFILTER, &mdl.Config{NetNS: int(n.ns.Fd())})
	if err != nil {
		return fmt.Errorf("open nftables socket: %w", err)
	}
	defer conn.Close()
	header := func(family, resource byte) []byte { return []byte{family, unix.NFNETLINK_V0, 0, resource} }
	_, err = conn.SendMessages([]mdl.Message{
		{Header: mdl.Header{Type: unix.NFNL_MSG_BATCH_BEGIN, Flags: mdl.Request}, Data: header(0, unix.NFNL_SUBSYS_NFTABLES)},
		{
			Header: mdl.Header{
				Type:  unix.NFNL_SUBSYS_NFTABLES<<8 | mdl.HeaderType(message),
				Flags: mdl.Request | mdl.Acknowledge | mdl.Create | mdl.Append,
			},
			Data: append(header(byte(nftables.TableFamilyNetdev), 0), attrs...),
		},
		{Header: mdl.Header{Type: unix.NFNL_MSG_BATCH_END, Flags: mdl.Request}, Data: header(0, unix.NFNL_SUBSYS_NFTABLES)},
	})
	if err != nil {
		return err
	}
	_, err = conn.Receive()
	return err
}
