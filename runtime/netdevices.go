package runtime

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// hasNetDevices says whether the container gets network devices of the host.
func (c *creation) hasNetDevices() bool {
	return c.bundle.Spec.Linux != nil && len(c.bundle.Spec.Linux.NetDevices) > 0
}

// netSide is a network namespace that devices are moved from or to.
type netSide struct {
	handle  *netlink.Handle
	sockets map[int]*nl.SocketHandle // for requests that the library has no call for
	fd      int
}

// movedDevice is a device that has gone to the container.
type movedDevice struct{ host, inside string }

// moveDevices moves the network devices of the specification into the container's namespace and sets them up there with the addresses that
// they had (OCI specification, config-linux.md, Network Devices). What happens to them later is not the runtime's business; only when
// the container does not come to be they go back.
func (c *creation) moveDevices() error {
	if !c.hasNetDevices() {
		return nil
	}
	host, err := c.netSide("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("move network devices: %w (config.json: linux.netDevices)", err)
	}
	inside, err := c.netSide(fmt.Sprintf("/proc/%d/ns/net", c.child.Pid))
	if err != nil {
		return fmt.Errorf("move network devices: %w (config.json: linux.netDevices)", err)
	}
	devices := c.bundle.Spec.Linux.NetDevices
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		target := devices[name].Name
		if target == "" {
			target = name
		}
		got, err := moveDevice(host, inside, name, target)
		if err != nil {
			return fmt.Errorf("move network device %s: %w (config.json: linux.netDevices.%[1]s)", name, err)
		}
		moved := movedDevice{name, got}
		c.returns = append(c.returns, func() error {
			if _, err := moveDevice(inside, host, moved.inside, moved.host); err != nil {
				return fmt.Errorf("move network device %s back: %w", moved.host, err)
			}
			return nil
		})
	}
	return nil
}

// giveBack returns what was lent to a container that does not come to be.
func (c *creation) giveBack() error {
	var errs []error
	for _, f := range slices.Backward(c.returns) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// netSide opens a namespace until the creation is over.
func (c *creation) netSide(path string) (netSide, error) {
	fd, err := c.open(path, unix.O_RDONLY)
	if err != nil {
		return netSide{}, err
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(fd), unix.NETLINK_ROUTE)
	if err != nil {
		return netSide{}, err
	}
	c.closers = append(c.closers, h.Close)
	socket, err := nl.GetNetlinkSocketAt(netns.NsHandle(fd), netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return netSide{}, err
	}
	c.closers = append(c.closers, socket.Close)
	return netSide{h, map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}, fd}, nil
}

// moveDevice moves a device to another namespace under a name, which may end in %d for the kernel to find a number, and returns the name
// it has there. Its permanent global addresses, which the kernel takes away, are put back, and it is set up.
func moveDevice(from, to netSide, name, target string) (string, error) {
	link, err := from.handle.LinkByName(name)
	if err != nil {
		return "", err
	}
	addresses, err := from.handle.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return "", fmt.Errorf("list addresses: %w", err)
	}
	before, err := to.handle.LinkList()
	if err != nil {
		return "", fmt.Errorf("list devices: %w", err)
	}
	if slices.ContainsFunc(before, func(l netlink.Link) bool { return l.Attrs().Name == target }) {
		return "", fmt.Errorf("to namespace as %s: %w", target, unix.EEXIST)
	}
	if err := from.handle.LinkSetDown(link); err != nil { // else it can't have another name
		return "", fmt.Errorf("set down: %w", err)
	}
	if err := from.send(link.Attrs().Index, to.fd, target); err != nil {
		if link.Attrs().Flags&net.FlagUp != 0 {
			err = errors.Join(err, from.handle.LinkSetUp(link))
		}
		return "", fmt.Errorf("to namespace as %s: %w", target, err)
	}
	there, err := to.find(target, before)
	if err != nil {
		return target, err
	}
	return there.Attrs().Name, to.setUp(there, addresses)
}

// send moves a device to the namespace fd and renames it, in one step: its own name may not be free there.
func (s netSide) send(index, fd int, name string) error {
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	request.Sockets = s.sockets
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(index)
	request.AddData(message)
	request.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	request.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(fd))))
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// find returns the device that has come, whatever name the kernel made of a template.
func (s netSide) find(name string, before []netlink.Link) (netlink.Link, error) {
	prefix, _, template := strings.Cut(name, "%d")
	if !template {
		return s.handle.LinkByName(name)
	}
	now, err := s.handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	for _, link := range now {
		old := slices.ContainsFunc(before, func(l netlink.Link) bool { return l.Attrs().Index == link.Attrs().Index })
		if !old && strings.HasPrefix(link.Attrs().Name, prefix) {
			return link, nil
		}
	}
	return nil, fmt.Errorf("no device %s has come", name)
}

// setUp gives a device its addresses and sets it up.
func (s netSide) setUp(link netlink.Link, addresses []netlink.Addr) error {
	for _, a := range addresses {
		if a.Flags&unix.IFA_F_PERMANENT == 0 || a.Scope != unix.RT_SCOPE_UNIVERSE {
			continue
		}
		a.Label = "" // it has to begin with the name, which may be another
		if err := s.handle.AddrReplace(link, &a); err != nil {
			return fmt.Errorf("add address %s: %w", a.IPNet, err)
		}
	}
	if err := s.handle.LinkSetUp(link); err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	return nil
}
