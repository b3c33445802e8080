package e2e

import (
	"net/netip"
	"os/exec"
	"testing"
	"time"
)

// Remote is how the commands of a host that is a machine of its own are run.
type Remote struct {
	// Wrap is put before every command: a program that runs it there, with the same streams and exit code.
	Wrap []string
	// Zap is where the zap under test is there.
	Zap string
	// Root and TLS are --root and the directory of keys there.
	Root, TLS string
	// Port is the machine's port of the laboratory's switch, see [Lab.AddTap].
	Port string
}

// NewSwitch makes a laboratory without hosts, and keys for hosts of these names, to be added with [Lab.AddRemote]. It is cleaned
// up like that of [NewLab].
func NewSwitch(t testing.TB, names ...string) *Lab {
	t.Helper()
	l := newLab(t)
	// An address of the laboratory's own, to look from the switch whether a host answers.
	l.ip("-n", string(l.sw), "addr", "add", "10.88.0.253/24", "dev", Lan)
	if len(names) > 0 {
		l.run(Binary(t), append([]string{"keys", "init", l.Path("keys")}, names...)...)
	}
	return l
}

// Switch is the namespace that everything is joined in.
func (l *Lab) Switch() NetNS { return l.sw }

// AddTap makes a tap that is a port of a bridge in the switch's namespace; Lan is the bridge that the hosts are on.
func (l *Lab) AddTap(name, bridge string) {
	l.t.Helper()
	l.ip("-n", string(l.sw), "tuntap", "add", name, "mode", "tap")
	l.ip("-n", string(l.sw), "link", "set", name, "master", bridge, "up")
}

// Lan is the bridge in the switch's namespace that hosts and clients are ports of.
const Lan = "lan"

// AddBridge makes another bridge in the switch's namespace, on which this machine has an address there.
func (l *Lab) AddBridge(name string, addr netip.Prefix) {
	l.t.Helper()
	l.ip("-n", string(l.sw), "link", "add", name, "up", "type", "bridge", "stp_state", "0", "forward_delay", "0")
	l.ip("-n", string(l.sw), "addr", "add", addr.String(), "dev", name)
}

// AddRemote makes a host of the laboratory out of a machine, with the address that its number has in the laboratory's subnet.
func (l *Lab) AddRemote(name string, number int, r Remote) *Host {
	h := &Host{
		Name: name, NetNS: l.sw, Root: r.Root, TLS: r.TLS, Wrap: r.Wrap, lab: l, port: r.Port, zap: r.Zap,
		Addr: netip.AddrFrom4([4]byte{10, 88, 0, byte(number)}),
	}
	l.Hosts = append(l.Hosts, h)
	return h
}

// remote says whether the host is a machine of its own.
func (h *Host) remote() bool { return h.zap != "" }

// SlowLink lets the switch send to the host no faster than rate, in tc(8)'s words (20mbit), or as fast as it can for "".
func (l *Lab) SlowLink(h *Host, rate string) {
	l.t.Helper()
	tc := func(args ...string) {
		l.t.Helper()
		l.run("nsenter", append([]string{"--net=" + l.sw.Path(), "tc", "qdisc"}, args...)...)
	}
	if rate == "" {
		tc("del", "dev", h.port, "root")
		return
	}
	tc("replace", "dev", h.port, "root", "tbf", "rate", rate, "burst", "64kb", "latency", "200ms")
}

// listening says whether zap serve takes connections: where processes can't be looked at, by connecting.
func (s *Server) listening() bool {
	if !s.Host.remote() {
		return listens(s.Pid, PeerPort)
	}
	conn, err := s.Host.NetNS.Dial(s.Host.Peer(), time.Second)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// StartChild starts a command as a child of this program that [WaitChild] waits for, when [Adopt] was called.
func StartChild(cmd *exec.Cmd) error { return processes.start(cmd) }

// WaitChild waits for a command that StartChild started.
func WaitChild(cmd *exec.Cmd) error { return processes.wait(cmd) }

// RunChild is StartChild and WaitChild.
func RunChild(cmd *exec.Cmd) error {
	if err := StartChild(cmd); err != nil {
		return err
	}
	return WaitChild(cmd)
}

// Build builds a Go program of this module, once in a run, and answers with its path.
func Build(t testing.TB, name, pkg string) string { t.Helper(); return build(t, name, pkg) }
