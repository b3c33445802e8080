package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tape is what arrived at and left from a link.
type tape struct {
	mu     sync.Mutex
	frames []taped
}

type taped struct {
	kind  uint8 // unix.PACKET_*
	frame []byte
}

// tapeOf records a link until the test ends. With the protocol unix.ETH_P_ALL it sees a frame
// before nftables does, with another one afterwards.
func tapeOf(t *testing.T, s *space, link string, protocol uint16) *tape {
	t.Helper()
	var sock *packetSocket
	err := inside(s.ns, func() (err error) {
		sock, err = newPacketSocket(s.link(t, link).Attrs().Index, protocol)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := sock.setBuffer(unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, 64<<20); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	tp := &tape{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, virtioHeader+frameMax)
		fds := []unix.PollFd{{Fd: int32(sock.fd), Events: unix.POLLIN}, {Fd: int32(r.Fd())}}
		for fds[1].Revents == 0 {
			if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			n, from, err := unix.Recvfrom(sock.fd, buffer, unix.MSG_DONTWAIT)
			if err == nil {
				tp.add(from.(*unix.SockaddrLinklayer).Pkttype, buffer[virtioHeader:n])
			}
		}
	}()
	t.Cleanup(func() { w.Close(); <-done; r.Close(); sock.Close() })
	return tp
}

func (tp *tape) add(kind uint8, frame []byte) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.frames = append(tp.frames, taped{kind, bytes.Clone(frame)})
}

// from returns the frames that were sent by mac and arrived; those of ARP, neighbour discovery and
// listener reports only if asked for.
func (tp *tape) from(mac string, chatter bool) [][]byte {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	want, _ := net.ParseMAC(mac)
	var out [][]byte
	for _, f := range tp.frames {
		if f.kind != unix.PACKET_OUTGOING && len(f.frame) >= 14 && bytes.Equal(f.frame[6:12], want) && isChatter(f.frame) == chatter {
			out = append(out, f.frame)
		}
	}
	return out
}

func isChatter(frame []byte) bool {
	switch {
	case frame[12] == 0x08 && frame[13] == 0x06:
		return true
	case frame[12] == 0x86 && frame[13] == 0xdd && len(frame) > 54:
		return frame[20] == 0 || frame[20] == protocolICMPv6 && frame[54] >= 133 && frame[54] <= 137
	}
	return false
}

// udp opens a UDP socket in a namespace, with room for many datagrams.
func udp(t *testing.T, ns *os.File, address string) *net.UDPConn {
	t.Helper()
	var c net.PacketConn
	if err := inside(ns, func() (err error) { c, err = net.ListenPacket("udp", address); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	u := c.(*net.UDPConn)
	raw, err := u.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20)
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 64<<20)
	})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func send(t *testing.T, from *net.UDPConn, to, text string) {
	t.Helper()
	a, err := net.ResolveUDPAddr("udp", to)
	if err == nil {
		_, err = from.WriteTo([]byte(text), a)
	}
	if err != nil {
		t.Fatalf("send %s to %s: %v", text, to, err)
	}
}

// receive returns the next datagram, or "" if none comes in time.
func receive(t *testing.T, c *net.UDPConn, within time.Duration) string {
	t.Helper()
	buffer := make([]byte, 1<<16)
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	n, _, err := c.ReadFrom(buffer)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

// shortly is how long the tests look for something that must not come.
const shortly = 60 * time.Millisecond

func mustLocked(t *testing.T, n *Network, want bool) {
	t.Helper()
	if got, err := n.Locked(); err != nil || got != want {
		t.Fatalf("locked: %v, %v, want %v", got, err, want)
	}
}

func TestLockIsSilentBothWays(t *testing.T) {
	l := newLab(t)
	n := l.mustUp(l.hostA, podConfig("zapA"))
	echo(t, n, "10.77.0.50:80")
	conn := mustDial(t, l.client, "10.77.0.50:80")
	roundTrip(t, conn, "before")
	inPod, outside := udp(t, n.File(), "10.77.0.50:90"), udp(t, l.client.ns, "10.77.0.9:90")
	mustLocked(t, n, false)
	if err := n.Arm(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustLocked(t, n, false)
	roundTrip(t, conn, "armed")

	for range 2 {
		if err := n.Lock(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := n.Arm(t.Context()); err != nil { // must not open it
			t.Fatal(err)
		}
		mustLocked(t, n, true)
	}
	tp := tapeOf(t, l.client, "eth0", unix.ETH_P_ALL)
	send(t, outside, "10.77.0.50:90", "in")
	send(t, outside, "10.77.0.50:91", "to a closed port")
	_, _ = inPod.WriteTo([]byte("out"), outside.LocalAddr()) // the kernel may tell that it could not
	if _, err := dial(l.client.ns, "10.77.0.50:81", shortly); err == nil || !err.(net.Error).Timeout() {
		t.Errorf("connect to a closed port behind the lock: %v, want silence", err)
	}
	if err := n.Announce(t.Context()); err == nil {
		t.Log("the kernel did not say that announcements were dropped")
	}
	if got := receive(t, inPod, shortly) + receive(t, outside, shortly); got != "" {
		t.Errorf("%q came through", got)
	}
	if all := append(tp.from(podConfig("").MAC, false), tp.from(podConfig("").MAC, true)...); len(all) != 0 {
		t.Errorf("the client saw %d frames of the pod: %x", len(all), all)
	}
	if _, err := conn.Write([]byte("while locked")); err != nil {
		t.Fatal(err)
	}

	for range 2 {
		if err := n.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustLocked(t, n, false)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if err := expect(conn, "while locked"); err != nil {
		t.Fatalf("the connection did not survive: %v", err)
	}
	send(t, outside, "10.77.0.50:90", "in again")
	if got := receive(t, inPod, patience); got != "in again" {
		t.Errorf("after the lock %q came in", got)
	}
}

func TestMuteStillHears(t *testing.T) {
	l := newLab(t)
	n := l.mustUp(l.hostA, podConfig("zapA"))
	inPod, outside := udp(t, n.File(), "10.77.0.50:90"), udp(t, l.client.ns, "10.77.0.9:90")
	send(t, outside, "10.77.0.50:90", "warm") // neighbours are known from here on
	if got := receive(t, inPod, patience); got != "warm" {
		t.Fatal(got)
	}
	send(t, inPod, "10.77.0.9:90", "warm")
	if got := receive(t, outside, patience); got != "warm" {
		t.Fatal(got)
	}
	if err := n.Mute(t.Context()); err != nil { // nobody armed it
		t.Fatal(err)
	}
	mustLocked(t, n, false)
	send(t, outside, "10.77.0.50:90", "in")
	if got := receive(t, inPod, patience); got != "in" {
		t.Errorf("a muted pod heard %q", got)
	}
	_, _ = inPod.WriteTo([]byte("out"), outside.LocalAddr())
	if got := receive(t, outside, shortly); got != "" {
		t.Errorf("a muted pod said %q", got)
	}
	if err := n.Lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustLocked(t, n, true)
}

func TestLockSurvivesItsMaker(t *testing.T) {
	l := newLab(t)
	maker := l.mustUp(l.hostA, podConfig("zapA"))
	if err := maker.Lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", maker.File().Fd()))
	if err != nil {
		t.Fatal(err)
	}
	home, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", l.hostA.ns.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	next, err := open(ns, home)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if err := maker.Close(); err != nil {
		t.Fatal(err)
	}
	mustLocked(t, next, true)
	if err := next.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustLocked(t, next, false)
	echo(t, next, "10.77.0.50:80")
	roundTrip(t, mustDial(t, l.client, "10.77.0.50:80"), "open")
}

// fdbPort returns the port at which a bridge learned mac.
func fdbPort(t *testing.T, s *space, mac string) string {
	t.Helper()
	entries, err := s.h.NeighList(0, unix.AF_BRIDGE)
	if err != nil {
		t.Fatal(err)
	}
	var ports []string
	for _, e := range entries {
		if e.HardwareAddr.String() == mac {
			port, err := s.h.LinkByIndex(e.LinkIndex)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(ports, port.Attrs().Name) {
				ports = append(ports, port.Attrs().Name)
			}
		}
	}
	return fmt.Sprint(ports)
}

func TestAnnounceTeachesTheSwitch(t *testing.T) {
	l := newLab(t)
	c := podConfig("zapA")
	c.Addresses = c.Addresses[:1]
	a := l.mustUp(l.hostA, c)
	eventually(t, "switch learns the first port", func() error { return same(fdbPort(t, l.sw, c.MAC), "[pa]") })
	if err := errors.Join(a.Arm(t.Context()), a.Lock(t.Context())); err != nil {
		t.Fatal(err)
	}
	c.HostLink = "zapB"
	b := l.network(l.hostB)
	if err := errors.Join(b.Set(t.Context(), c), b.Gate(t.Context())); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Attach(t.Context()), b.Announce(t.Context())); err != nil { // a closed gate lets it pass
		t.Fatal(err)
	}
	eventually(t, "switch learns the second port", func() error { return same(fdbPort(t, l.sw, c.MAC), "[pb]") })
	if err := errors.Join(a.Unlock(t.Context()), a.Announce(t.Context())); err != nil { // the move is called off
		t.Fatal(err)
	}
	eventually(t, "switch learns the first port again", func() error { return same(fdbPort(t, l.sw, c.MAC), "[pa]") })
}

func same(got, want string) error {
	if got != want {
		return fmt.Errorf("got %s, want %s", got, want)
	}
	return nil
}

func TestAnnounceUpdatesNeighbours(t *testing.T) {
	l := newLab(t)
	c := podConfig("zapA")
	n := l.mustUp(l.hostA, c)
	echo(t, n, "10.77.0.50:80")
	echo(t, n, "[fd77::50]:80")
	roundTrip(t, mustDial(t, l.client, "10.77.0.50:80"), "four")
	roundTrip(t, mustDial(t, l.client, "[fd77::50]:80"), "six")
	known := func(want string) func() error {
		return func() error {
			entries, err := l.client.h.NeighList(l.client.link(t, "eth0").Attrs().Index, unix.AF_UNSPEC)
			if err != nil {
				return err
			}
			found := 0
			for _, e := range entries {
				if a := addrOf(e.IP); a == addr("10.77.0.50") || a == addr("fd77::50") {
					found++
					if e.HardwareAddr.String() != want {
						return fmt.Errorf("%s is at %s, want %s", a, e.HardwareAddr, want)
					}
				}
			}
			if found != 2 {
				return fmt.Errorf("%d entries, want 2", found)
			}
			return nil
		}
	}
	eventually(t, "client knows the pod", known(c.MAC))
	c.MAC = "02:00:00:00:00:51"
	if err := n.Up(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	eventually(t, "client knows the pod's new address", known(c.MAC))
}
