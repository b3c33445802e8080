package network

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const holdLimit = 64 << 20

func mustHold(t *testing.T, n *Network, limit int64) *Holder {
	t.Helper()
	if err := n.Gate(t.Context()); err != nil {
		t.Fatal(err)
	}
	h, err := n.Hold(t.Context(), limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Discard() })
	return h
}

func mustRelease(t *testing.T, n *Network, h *Holder) int {
	t.Helper()
	frames, err := h.Release(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if gated, err := n.Gated(); err != nil || gated {
		t.Fatalf("after Release the gate is closed: %v, %v", gated, err)
	}
	return frames
}

// retransmits returns how many segments a connection sent again.
func retransmits(t *testing.T, c net.Conn) uint32 {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	if cerr := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return info.Total_retrans
}

// held waits until the holder has at least so many frames.
func held(t *testing.T, h *Holder, frames int) {
	t.Helper()
	eventually(t, "frames are held", func() error {
		if got, _ := h.Held(); got < frames {
			return fmt.Errorf("%d frames, want %d", got, frames)
		}
		return nil
	})
}

func TestHoldDeliversWithoutRetransmission(t *testing.T) {
	for _, address := range []string{"10.77.0.50:80", "[fd77::50]:80"} {
		t.Run(address, func(t *testing.T) {
			l := newLab(t)
			l.neverRetransmit()
			n := l.mustUp(l.hostA, podConfig("zapA"))
			echo(t, n, address)
			conn := mustDial(t, l.client, address)
			roundTrip(t, conn, "before")
			h := mustHold(t, n, holdLimit)
			if _, err := io.WriteString(conn, "through the gate"); err != nil {
				t.Fatal(err)
			}
			held(t, h, 1)
			if frames := mustRelease(t, n, h); frames < 1 {
				t.Errorf("%d frames released", frames)
			}
			if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if err := expect(conn, "through the gate"); err != nil {
				t.Fatal(err)
			}
			if again := retransmits(t, conn); again != 0 || h.Dropped() != 0 {
				t.Errorf("%d segments were sent again, %d frames dropped", again, h.Dropped())
			}
			roundTrip(t, conn, "after")
		})
	}
}

// A bulk transfer meets the gate with segments of up to 64 KiB whose checksums are unfinished.
func TestHoldKeepsAStreamWhole(t *testing.T) {
	l := newLab(t)
	n := l.mustUp(l.hostA, podConfig("zapA"))
	echo(t, n, "10.77.0.50:80")
	conn := mustDial(t, l.client, "10.77.0.50:80")
	roundTrip(t, conn, "before")
	block := make([]byte, 1<<20)
	if _, err := rand.Read(block); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(6 * patience)); err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	blocks, back := make(chan int, 1), make(chan error, 1)
	go func() {
		sent := 0
		for ; !stop.Load(); sent++ {
			if _, err := conn.Write(block); err != nil {
				break
			}
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		blocks <- sent
	}()
	var read atomic.Int64
	go func() { back <- readBlocks(conn, block, &read) }()
	for range 4 {
		begin := read.Load()
		eventually(t, "the stream flows", func() error {
			if read.Load() < begin+4 {
				return errors.New("it does not")
			}
			return nil
		})
		h := mustHold(t, n, holdLimit)
		held(t, h, 1)
		mustRelease(t, n, h)
		if h.Dropped() != 0 {
			t.Errorf("%d frames dropped", h.Dropped())
		}
	}
	stop.Store(true)
	if err, sent := <-back, <-blocks; err != nil || read.Load() != int64(sent) {
		t.Errorf("%d of %d blocks came back: %v", read.Load(), sent, err)
	}
}

// readBlocks reads to the end, compares every block and counts them.
func readBlocks(c net.Conn, block []byte, read *atomic.Int64) error {
	got := make([]byte, len(block))
	for {
		switch _, err := io.ReadFull(c, got); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case !bytes.Equal(got, block):
			return fmt.Errorf("block %d changed on its way", read.Load())
		}
		read.Add(1)
	}
}

// flow sends numbered datagrams until the returned function, which says how many, is called.
func flow(from *net.UDPConn, to net.Addr) func() int {
	stop, count := make(chan struct{}), make(chan int)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				count <- i
				return
			default:
			}
			_, _ = from.WriteTo([]byte(strconv.Itoa(i)), to) // what is not sent is missed later
			if i%8 == 7 {
				time.Sleep(100 * time.Microsecond)
			}
		}
	}()
	return func() int { close(stop); return <-count }
}

// The order of a move: mute the source, announce at the target, lock the source. Every datagram
// comes to the one pod or to the other.
func TestMoveLosesNothing(t *testing.T) {
	l := newLab(t)
	c := podConfig("zapA")
	a := l.mustUp(l.hostA, c)
	inA, outside := udp(t, a.File(), "10.77.0.50:90"), udp(t, l.client.ns, "10.77.0.9:90")
	send(t, outside, "10.77.0.50:90", "warm")
	if got := receive(t, inA, patience); got != "warm" {
		t.Fatal(got)
	}
	snap, err := Snapshot(t.Context(), a, c, Fresh{})
	if err != nil {
		t.Fatal(err)
	}
	snap.HostLink = "zapB"
	b := l.network(l.hostB)
	mustSet(t, b, snap)
	h := mustHold(t, b, holdLimit)
	inB := udp(t, b.File(), "10.77.0.50:90")
	if err := a.Arm(t.Context()); err != nil {
		t.Fatal(err)
	}
	end := flow(outside, inA.LocalAddr())
	eventually(t, "datagrams flow", func() error {
		if receive(t, inA, patience) != "100" {
			return errors.New("not yet a hundred")
		}
		return nil
	})
	if err := errors.Join(a.Mute(t.Context()), b.Attach(t.Context()), b.Announce(t.Context())); err != nil {
		t.Fatal(err)
	}
	held(t, h, 100) // by now the target's answer would have come back
	if err := a.Lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustRelease(t, b, h)
	time.Sleep(shortly)
	total := end()
	times := make(map[string]int)
	for _, pod := range []*net.UDPConn{inA, inB} {
		for text := receive(t, pod, shortly); text != ""; text = receive(t, pod, shortly) {
			times[text]++
		}
	}
	for i := 101; i < total; i++ {
		if got := times[strconv.Itoa(i)]; got != 1 {
			t.Errorf("datagram %d of %d came %d times", i, total, got)
		}
	}
}

// Datagrams that arrive before, during and after the release arrive once each.
func TestReleaseLosesAndDoublesNothing(t *testing.T) {
	l := newLab(t)
	n := l.mustUp(l.hostA, podConfig("zapA"))
	inPod, outside := udp(t, n.File(), "10.77.0.50:90"), udp(t, l.client.ns, "10.77.0.9:90")
	send(t, outside, "10.77.0.50:90", "warm")
	if got := receive(t, inPod, patience); got != "warm" {
		t.Fatal(got)
	}
	h := mustHold(t, n, holdLimit)
	end := flow(outside, inPod.LocalAddr())
	const certain = 500 // are held for sure when the release begins
	held(t, h, certain)
	if got := receive(t, inPod, time.Millisecond); got != "" {
		t.Errorf("%q passed the closed gate", got)
	}
	released := mustRelease(t, n, h)
	time.Sleep(shortly)
	total := end()
	seen, late, last := make([]int, total), 0, -1
	for k := range total {
		text := receive(t, inPod, patience)
		i, err := strconv.Atoi(text)
		if err != nil || i >= total {
			t.Fatalf("got %q of %d datagrams", text, total)
		}
		if k < certain-10 && i != k { // some of the frames were not ours
			t.Fatalf("datagram %d came as number %d, although it was held", i, k)
		}
		seen[i]++
		if i < last {
			late++
		}
		last = max(last, i)
	}
	for i, times := range seen {
		if times != 1 {
			t.Errorf("datagram %d of %d came %d times", i, total, times)
		}
	}
	if more := receive(t, inPod, shortly); more != "" {
		t.Errorf("%q came twice", more)
	}
	t.Logf("%d datagrams, %d released, %d overtaken", total, released, late)
}

func TestGateMutesUntilRelease(t *testing.T) {
	l := newLab(t)
	n := l.mustUp(l.hostA, podConfig("zapA"))
	inPod, outside := udp(t, n.File(), "10.77.0.50:90"), udp(t, l.client.ns, "10.77.0.9:90")
	send(t, inPod, "10.77.0.9:90", "warm")
	if got := receive(t, outside, patience); got != "warm" {
		t.Fatal(got)
	}
	h := mustHold(t, n, holdLimit)
	tp := tapeOf(t, l.client, "eth0", unix.ETH_P_ALL)
	const frames = 300
	for i := range frames {
		send(t, inPod, "10.77.0.9:90", strconv.Itoa(i))
	}
	held(t, h, frames)
	if got := receive(t, outside, shortly); got != "" {
		t.Errorf("the pod said %q", got)
	}
	if all := tp.from(podConfig("").MAC, false); len(all) != 0 {
		t.Errorf("%d frames left the pod", len(all))
	}
	if got := mustRelease(t, n, h); got < frames {
		t.Errorf("%d frames released, want %d", got, frames)
	}
	for i := range frames {
		if got := receive(t, outside, patience); got != strconv.Itoa(i) {
			t.Fatalf("got %q, want %d", got, i)
		}
	}
}

// The restored frames look as they came: nobody in the pod can tell from the link header.
func TestReleaseRestoresTheSource(t *testing.T) {
	l := newLab(t)
	n := l.mustUp(l.hostA, podConfig("zapA"))
	inPod, outside := udp(t, n.File(), "10.77.0.50:90"), udp(t, l.client.ns, "10.77.0.9:90")
	send(t, outside, "10.77.0.50:90", "warm")
	if got := receive(t, inPod, patience); got != "warm" {
		t.Fatal(got)
	}
	h := mustHold(t, n, holdLimit)
	tp := tapeOf(t, &space{ns: n.File(), h: n.pod}, "eth0", unix.ETH_P_IP)
	send(t, outside, "10.77.0.50:90", "held")
	held(t, h, 1)
	mustRelease(t, n, h)
	if got := receive(t, inPod, patience); got != "held" {
		t.Fatal(got)
	}
	eventually(t, "the frame is on tape", func() error {
		if got := len(tp.from(l.clientMAC.String(), false)); got != 1 {
			return fmt.Errorf("%d frames of the client", got)
		}
		return nil
	})
}

func TestClosedGateAnswersForTheAddress(t *testing.T) {
	l := newLab(t)
	c := podConfig("zapA")
	n := l.network(l.hostA)
	if err := errors.Join(n.Set(t.Context(), c), n.Gate(t.Context()), n.Gate(t.Context())); err != nil {
		t.Fatal(err)
	}
	h := mustHold(t, n, holdLimit)
	if err := n.Attach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if gated, err := n.Gated(); err != nil || !gated {
		t.Fatalf("gated: %v, %v", gated, err)
	}
	tp := tapeOf(t, l.client, "eth0", unix.ETH_P_ALL)
	outside4, outside6 := udp(t, l.client.ns, "10.77.0.9:90"), udp(t, l.client.ns, "[fd77::9]:90")
	send(t, outside4, "10.77.0.50:90", "four") // to a port at which nobody is: an answer would be an ICMP error
	send(t, outside6, "[fd77::50]:90", "six")
	eventually(t, "client learns the pod's addresses", func() error {
		entries, err := l.client.h.NeighList(l.client.link(t, "eth0").Attrs().Index, unix.AF_UNSPEC)
		if err != nil {
			return err
		}
		found := 0
		for _, e := range entries {
			if e.HardwareAddr.String() == c.MAC && !addrOf(e.IP).IsLinkLocalUnicast() {
				found++
			}
		}
		if found != 2 {
			return fmt.Errorf("%d of 2", found)
		}
		return nil
	})
	held(t, h, 2)
	time.Sleep(shortly)
	if all := tp.from(c.MAC, false); len(all) != 0 {
		t.Errorf("the pod spoke: %x", all)
	}
	eventually(t, "the ARP reply is on tape", func() error {
		if len(tp.from(c.MAC, true)) == 0 {
			return errors.New("it is blind")
		}
		return nil
	})
}

func TestHoldIsBounded(t *testing.T) {
	l := newLab(t)
	n := l.mustUp(l.hostA, podConfig("zapA"))
	inPod, outside := udp(t, n.File(), "10.77.0.50:90"), udp(t, l.client.ns, "10.77.0.9:90")
	send(t, outside, "10.77.0.50:90", "warm")
	if got := receive(t, inPod, patience); got != "warm" {
		t.Fatal(got)
	}
	const limit = 64 << 10
	h := mustHold(t, n, limit)
	text := string(bytes.Repeat([]byte("x"), 1000))
	const frames = 200
	for i := range frames {
		send(t, outside, "10.77.0.50:90", fmt.Sprintf("%03d%s", i, text))
	}
	eventually(t, "everything is seen", func() error {
		if got, _ := h.Held(); got+h.Dropped() < frames {
			return fmt.Errorf("%d held, %d dropped", got, h.Dropped())
		}
		return nil
	})
	kept, size := h.Held()
	if size > limit || size < limit-2000 {
		t.Errorf("%d bytes held, the limit is %d", size, limit)
	}
	if got := mustRelease(t, n, h); got < kept { // small ones of the kernel's own may have come meanwhile
		t.Errorf("%d frames released, %d were held", got, kept)
	}
	for i := range limit / 1100 { // the first ones were kept
		if got := receive(t, inPod, patience); len(got) < 3 || got[:3] != fmt.Sprintf("%03d", i) {
			t.Fatalf("got %.10q, want %d", got, i)
		}
	}
}

// A restored tree that is killed says FIN or RST with its last breath; nobody must hear.
func TestDiscardKeepsTheGateClosed(t *testing.T) {
	l := newLab(t)
	n := l.mustUp(l.hostA, podConfig("zapA"))
	ln := listen(t, n.File(), "tcp", "10.77.0.50:80")
	accepted := make(chan net.Conn, 1)
	go func() {
		if c, err := ln.Accept(); err == nil {
			accepted <- c
		}
	}()
	conn := mustDial(t, l.client, "10.77.0.50:80")
	server := <-accepted
	inPod, outside := udp(t, n.File(), "10.77.0.50:90"), udp(t, l.client.ns, "10.77.0.9:90")

	h := mustHold(t, n, holdLimit)
	tp := tapeOf(t, l.client, "eth0", unix.ETH_P_ALL)
	send(t, outside, "10.77.0.50:90", "lost")
	held(t, h, 1)
	if err := server.(*net.TCPConn).SetLinger(0); err != nil { // closing resets
		t.Fatal(err)
	}
	server.Close()
	held(t, h, 2)
	if got := h.Discard(); got < 2 {
		t.Errorf("%d frames discarded", got)
	}
	if got := h.Discard(); got != 0 {
		t.Errorf("%d frames discarded the second time", got)
	}
	if _, err := h.Release(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("release after discard: %v", err)
	}
	send(t, outside, "10.77.0.50:90", "lost too")
	send(t, inPod, "10.77.0.9:90", "not heard")
	if got := receive(t, inPod, shortly) + receive(t, outside, shortly); got != "" {
		t.Errorf("%q passed", got)
	}
	if all := tp.from(podConfig("").MAC, false); len(all) != 0 {
		t.Errorf("the client saw %x", all)
	}
	if err := conn.SetReadDeadline(time.Now().Add(shortly)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the client's connection says %v", err)
	}
	if err := errors.Join(n.Ungate(t.Context()), n.Ungate(t.Context())); err != nil {
		t.Fatal(err)
	}
	send(t, outside, "10.77.0.50:90", "open")
	if got := receive(t, inPod, patience); got != "open" {
		t.Errorf("after Ungate %q came", got)
	}
}

func BenchmarkLock(b *testing.B) {
	n := benchNetwork(b)
	if err := n.Arm(b.Context()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := n.Lock(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRelease measures the release of a hundred full-size frames.
func BenchmarkRelease(b *testing.B) {
	n := benchNetwork(b)
	for b.Loop() {
		b.StopTimer()
		h, err := n.Hold(b.Context(), holdLimit)
		if err != nil {
			b.Fatal(err)
		}
		frame := make([]byte, virtioHeader+1514)
		for range 100 {
			h.in.frames = append(h.in.frames, bytes.Clone(frame))
		}
		b.StartTimer()
		if _, err := h.Release(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func benchNetwork(b *testing.B) *Network {
	if os.Geteuid() != 0 {
		b.Skip("needs root: makes network namespaces")
	}
	var n *Network
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if n, err = New(); err != nil {
			return err
		}
		c := podConfig("zapA")
		c.Bridge = ""
		return n.Up(b.Context(), c)
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { n.Remove(b.Context()); n.Close() })
	return n
}
