package boot

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	namesFamily = &names{exact: true, list: []name{{unix.AF_UNIX, "AF_UNIX"}}}
	namesSocket = &names{list: []name{{unix.SOCK_DGRAM, "SOCK_DGRAM"}, {unix.SOCK_CLOEXEC, "SOCK_CLOEXEC"}}}
	namesLink   = &names{list: []name{{unix.IFF_UP, "IFF_UP"}}}
)

// linkRequest is struct ifreq of netdevice(7) with flags.
type linkRequest struct {
	name  [unix.IFNAMSIZ]byte
	flags uint16
	_     [22]byte
}

// loopback sets the loopback link of a new network namespace up. The specification does not ask for it; every other runtime does it, and
// programs that talk to themselves by 127.0.0.1 expect it where no engine prepares the network.
func (c *compiler) loopback(fresh uint64) {
	if fresh&unix.CLONE_NEWNET == 0 {
		return
	}
	request := &linkRequest{flags: unix.IFF_UP}
	copy(request.name[:], "lo")
	c.on("set link lo up", "linux.namespaces")
	c.do(unix.SYS_SOCKET, symbol(unix.AF_UNIX, namesFamily), symbol(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, namesSocket), number(0)).into("links")
	// Where the runtime may make namespaces and may not set up links, the container has none.
	c.do(unix.SYS_IOCTL, c.reg("links"), symbol(unix.SIOCSIFFLAGS, namesIoctl), memory(request, showLinkRequest)).ignore(unix.EPERM)
	c.close("links")
}

func showLinkRequest(p unsafe.Pointer) string {
	r := (*linkRequest)(p)
	return `{"` + unix.ByteSliceToString(r.name[:]) + `", ` + namesLink.format(uintptr(r.flags)) + "}"
}
