package stream

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// wait bounds every wait of a test.
const wait = 20 * time.Second

// pair returns two connections with each other's bytes, over TCP on loopback with large buffers as below TLS.
func pair(tb testing.TB) (*Conn, *Conn) {
	tb.Helper()
	a, b := tcp(tb)
	x, y := NewConn(Buffered(a)), NewConn(Buffered(b))
	x.SetIdle(wait)
	y.SetIdle(wait)
	tb.Cleanup(func() { x.Close(); y.Close() })
	return x, y
}

func tcp(tb testing.TB) (net.Conn, net.Conn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	a, err := net.DialTimeout("tcp", l.Addr().String(), wait)
	if err != nil {
		tb.Fatal(err)
	}
	b := <-accepted
	if b == nil {
		tb.Fatal("accept failed")
	}
	tb.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// script is a connection whose peer has said everything in advance and takes whatever it is told.
type script struct {
	net.Conn // nil: what is not below is not called
	io.Reader
	said bytes.Buffer
}

func (s *script) Read(p []byte) (int, error)       { return s.Reader.Read(p) }
func (s *script) Write(p []byte) (int, error)      { return s.said.Write(p) }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) RemoteAddr() net.Addr             { return nil }
func (s *script) Close() error                     { return nil }

func scripted(b []byte) *Conn { return NewConn(&script{Reader: bytes.NewReader(b)}) }

// written is what f writes to a connection.
func written(tb testing.TB, f func(c *Conn) error) []byte {
	tb.Helper()
	s := &script{Reader: strings.NewReader("")}
	if err := f(NewConn(s)); err != nil {
		tb.Fatal(err)
	}
	return s.said.Bytes()
}

func TestFramesArriveAsSent(t *testing.T) {
	text := bytes.Repeat([]byte("the same again "), 5000)
	noise := make([]byte, MaxPayload)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	for _, mode := range []Compression{CompressAuto, CompressNever, CompressAlways} {
		x, y := pair(t)
		x.SetCompression(mode)
		sent := make(chan error, 1)
		go func() {
			sent <- errors.Join(x.WriteJSON(1, map[string]int{"a": 7}), x.Ping(), x.WriteData(2, text), x.WriteData(3, nil), x.Ping(),
				x.WriteData(0x90, noise), x.Close())
		}()
		f, err := y.Read()
		var got map[string]int
		if err != nil || f.Type != 1 || !f.Control || f.JSON(&got) != nil || got["a"] != 7 {
			t.Fatalf("frame 1: %+v, %v", f, err)
		}
		for i, want := range [][]byte{text, {}, noise} {
			f, err := y.Read()
			if err != nil || f.Control || !bytes.Equal(f.Payload, want) || f.Optional() != (i == 2) {
				t.Fatalf("mode %d, frame %d: type %#x, %d bytes, %v", mode, i+2, f.Type, len(f.Payload), err)
			}
			if f.JSON(&got) == nil {
				t.Error("data was taken for a document")
			}
		}
		if _, err := y.Read(); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v", err)
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		sentCounts, counts := x.Meter().Counts(), y.Meter().Counts()
		if counts.RawReceived != sentCounts.RawSent || counts.WireReceived != sentCounts.WireSent {
			t.Errorf("sent %+v, received %+v", sentCounts, counts)
		}
		if smaller := counts.WireReceived < counts.RawReceived; smaller != (mode != CompressNever) {
			t.Errorf("mode %d: %+v", mode, counts)
		}
	}
}

func TestTooLargeIsNotSent(t *testing.T) {
	x, _ := pair(t)
	if err := x.WriteData(1, make([]byte, MaxPayload+1)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if err := x.WriteJSON(1, strings.Repeat("x", MaxPayload)); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

// TestTruncation cuts a conversation at every byte: between frames that is its end, inside one an error that says so.
func TestTruncation(t *testing.T) {
	var ends []int
	whole := written(t, func(c *Conn) error {
		c.SetCompression(CompressAlways)
		for _, write := range []func() error{
			func() error { return c.WriteJSON(1, "document") },
			func() error { return c.WriteData(2, bytes.Repeat([]byte{5}, 3000)) },
			c.Ping,
			func() error { return c.WriteData(3, []byte("xyz")) },
		} {
			if err := write(); err != nil {
				return err
			}
			ends = append(ends, int(c.Meter().Counts().WireSent))
		}
		return nil
	})
	between := map[int]bool{0: true}
	for _, e := range ends {
		between[e] = true
	}
	for cut := range len(whole) + 1 {
		c := scripted(whole[:cut])
		var err error
		for err == nil {
			_, err = c.Read()
		}
		want := io.ErrUnexpectedEOF
		if between[cut] {
			want = io.EOF
		}
		if !errors.Is(err, want) {
			t.Errorf("cut at %d of %d: %v, want %v", cut, len(whole), err, want)
		}
	}
}

func TestHostileFrames(t *testing.T) {
	bomb := written(t, func(c *Conn) error {
		c.SetCompression(CompressAlways)
		return c.WriteData(1, make([]byte, MaxPayload))
	})
	var two packer
	two.ready()
	large := two.enc.EncodeAll(make([]byte, MaxPayload+1), nil)
	for _, test := range []struct {
		name  string
		bytes []byte
		want  error
	}{
		{"a megabyte of zeros, packed", bomb, nil},
		{"one byte more, packed", append([]byte{1, flagZstd, 0, 0, 0, 0, 0, byte(len(large))}, large...), ErrTooLarge},
		{"length over the bound", []byte{1, 0, 0, 0, 0, 0x10, 0, 1}, ErrTooLarge},
		{"largest length", []byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, ErrTooLarge},
		{"type zero", make([]byte, 8), errHeader},
		{"unknown flag", []byte{1, 4, 0, 0, 0, 0, 0, 0}, errHeader},
		{"reserved bits", []byte{1, 0, 0, 1, 0, 0, 0, 0}, errHeader},
		{"text", []byte("GET / HTTP/1.1\r\n\r\n"), errHeader},
	} {
		_, err := scripted(test.bytes).Read()
		if !errors.Is(err, test.want) || err != nil && test.want == nil {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	if _, err := scripted([]byte{1, flagZstd, 0, 0, 0, 0, 0, 3, 1, 2, 3}).Read(); err == nil {
		t.Error("what is not zstd was unpacked")
	}
}

func TestHandshake(t *testing.T) {
	for _, test := range []struct {
		name        string
		left, right Versions
		version     uint16
		want        [2]error
	}{
		{"same", Versions{1, 1}, Versions{1, 1}, 1, [2]error{}},
		{"newest common", Versions{1, 4}, Versions{2, 3}, 3, [2]error{}},
		{"apart", Versions{1, 2}, Versions{3, 5}, 0, [2]error{ErrPeerTooNew, ErrPeerTooOld}},
	} {
		a, b := net.Pipe()
		x, y := NewConn(a), NewConn(b)
		type result struct {
			version uint16
			err     error
		}
		other := make(chan result, 1)
		go func() { v, err := y.Handshake(test.right); other <- result{v, err} }()
		v, err := x.Handshake(test.left)
		o := <-other
		if v != test.version || o.version != test.version || !errors.Is(err, test.want[0]) || !errors.Is(o.err, test.want[1]) {
			t.Errorf("%s: %d %v and %d %v", test.name, v, err, o.version, o.err)
		}
		x.Close()
		y.Close()
	}
}

func TestHandshakeWithStrangers(t *testing.T) {
	for name, said := range map[string]string{
		"http":            "HTTP/1.1 400 Bad Request\r\n\r\n",
		"short stranger":  "220 ",
		"reversed range":  magic + "\x00\x05\x00\x01....",
		"translated text": "zap\x00\n\x1a\nxxxxxxxxxxxxxxxx",
	} {
		if _, err := scripted([]byte(said)).Handshake(Versions{1, 1}); !errors.Is(err, ErrNotZap) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for cut := range helloSize {
		_, err := scripted([]byte(magic + "\x00\x01\x00\x01\x00\x00\x00\x00")[:cut]).Handshake(Versions{1, 1})
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
}

func TestSilentPeer(t *testing.T) {
	x, y := pair(t)
	x.SetIdle(40 * time.Millisecond)
	_, err := x.Read()
	if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), y.NetConn().LocalAddr().String()+": silent for 40ms") {
		t.Error(err)
	}
}

func TestPeerThatTakesNothing(t *testing.T) {
	x, _ := pair(t)
	x.SetIdle(40 * time.Millisecond)
	var err error
	for range 1000 {
		if err = x.WriteData(1, make([]byte, MaxPayload)); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "takes no data for 40ms") {
		t.Error(err)
	}
}

// TestPeerThatOnlyPings takes data only after three idle times, but says that it lives.
func TestPeerThatOnlyPings(t *testing.T) {
	x, y := pair(t)
	const idle = 300 * time.Millisecond
	x.SetIdle(idle)
	stop := y.KeepAlive(idle / 8)
	defer stop()
	reply := x.Await(9)
	sent := make(chan error, 1)
	go func() {
		var err error
		for range 64 { // far more than sockets buffer
			err = errors.Join(err, x.WriteData(1, make([]byte, MaxPayload)))
		}
		sent <- err
	}()
	time.Sleep(3 * idle)
	total := 0
	for total < 64*MaxPayload {
		f, err := y.Read()
		if err != nil {
			t.Fatal(err)
		}
		total += len(f.Payload)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if err := y.WriteJSON(9, "done"); err != nil {
		t.Fatal(err)
	}
	var text string
	if err := reply.JSON(&text); err != nil || text != "done" {
		t.Error(text, err)
	}
}

func TestStopEndsWaits(t *testing.T) {
	x, _ := pair(t)
	reason := errors.New("reason")
	ctx, cancel := context.WithCancelCause(context.Background())
	release := x.Watch(ctx)
	read, wrote := make(chan error, 1), make(chan error, 1)
	go func() { _, err := x.Read(); read <- err }()
	go func() {
		var err error
		for err == nil {
			err = x.WriteData(1, make([]byte, MaxPayload))
		}
		wrote <- err
	}()
	cancel(reason)
	for _, c := range []chan error{read, wrote} {
		select {
		case err := <-c:
			if !errors.Is(err, reason) {
				t.Error(err)
			}
		case <-time.After(wait):
			t.Fatal("a wait did not end")
		}
	}
	if err := release(); !errors.Is(err, reason) {
		t.Error(err)
	}
	if _, err := x.Read(); !errors.Is(err, reason) {
		t.Errorf("a later read: %v", err)
	}
}

func TestAwaitSkipsWhatIsOptional(t *testing.T) {
	x, y := pair(t)
	reply := x.Await(7)
	if err := errors.Join(y.WriteData(0x99, []byte("news")), y.Ping(), y.WriteJSON(7, 1)); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := reply.JSON(&n); err != nil || n != 1 {
		t.Error(n, err)
	}
	reply = x.Await(7)
	if err := y.WriteData(8, nil); err != nil {
		t.Fatal(err)
	}
	if err := reply.JSON(&n); err == nil {
		t.Error("an unknown mandatory frame was skipped")
	}
}

func TestLimiterBooksTime(t *testing.T) {
	l := NewLimiter(1000)
	first, second := l.reserve(500), l.reserve(500)
	if first != 0 {
		t.Errorf("first: %v", first)
	}
	if second < 300*time.Millisecond || second > 500*time.Millisecond {
		t.Errorf("after 500 bytes at 1000/s: %v", second)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Wait(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestLimitedFlowArrives(t *testing.T) {
	x, y := pair(t)
	x.SetLimiter(NewLimiter(4 << 20))
	want := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	sent := make(chan error, 1)
	go func() { sent <- x.WriteData(1, want) }()
	f, err := y.Read()
	if err != nil || !bytes.Equal(f.Payload, want) {
		t.Fatalf("%d bytes, %v", len(f.Payload), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestPackerDecides(t *testing.T) {
	for _, test := range []struct {
		name               string
		link, speed, ratio float64
		want               bool
	}{
		{"slow link, text", 12e6, 500e6, 0.4, true},
		{"slow link, noise", 12e6, 500e6, 1, false},
		{"gigabit, text", 118e6, 500e6, 0.4, true},
		{"ten gigabit", 1.1e9, 500e6, 0.4, false},
		{"encoder as slow as the link", 118e6, 120e6, 0.4, false},
	} {
		k := packer{link: test.link, speed: test.speed, ratio: test.ratio}
		if k.decide(); k.pays != test.want {
			t.Errorf("%s: %v", test.name, k.pays)
		}
	}
}

// flow pushes frames of text through a packer whose connection takes linkRate bytes per second and says how many were compressed.
func flow(k *packer, frames int, linkRate float64) (packed int) {
	text := bytes.Repeat([]byte("a line of a log file, 12345\n"), 10000)
	took := func(n int) time.Duration { return time.Duration(float64(n) / linkRate * 1e9) }
	for range frames {
		if out, ok := k.pack(text); ok {
			packed++
			k.wrote(len(out), took(len(out)), true)
		} else {
			k.wrote(len(text), took(len(text)), false)
		}
	}
	return packed
}

func TestPackerMeasures(t *testing.T) {
	var slow, fast packer
	if n := flow(&slow, 400, 3e6); n < 200 || n == 400 {
		t.Errorf("on a slow link %d of 400 frames were compressed", n)
	}
	if n := flow(&fast, 400, 5e9); n > 250 { // the first 64 MiB are
		t.Errorf("on a fast link %d of 400 frames were compressed", n)
	}
	if n := flow(&fast, 400, 5e9); n != 0 {
		t.Errorf("on a fast link %d frames were compressed later", n)
	}
	if n := flow(&slow, 1000, 5e9); n > 600 {
		t.Errorf("on a link that became fast %d of 1000 frames were compressed", n)
	}
	if n := flow(&slow, 100, 5e9); n != 0 {
		t.Errorf("on a link that has become fast %d frames were compressed", n)
	}
}

// TestPackerBegins wants what is nearly empty to be compressed from the first frame on, and nothing else before the link's rate is known.
func TestPackerBegins(t *testing.T) {
	sparse, noise := make([]byte, 256<<10), make([]byte, 256<<10)
	for i := 0; i < len(sparse); i += 4096 {
		binary.LittleEndian.PutUint32(sparse[i:], uint32(i))
	}
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	var k packer
	if out, ok := k.pack(sparse); !ok || len(out) > len(sparse)/50 {
		t.Errorf("a number in each page: %v, %d bytes", ok, len(out))
	}
	if _, ok := k.pack(noise); ok {
		t.Error("noise got smaller")
	}
	if _, ok := k.pack(noise); ok || k.pays {
		t.Error("noise is compressed still")
	}
	var small packer
	if _, ok := small.pack(noise[:slice-1]); ok || small.speed != 0 {
		t.Errorf("a small frame was tried: %+v", small)
	}
	var cold packer
	if _, ok := cold.pack(noise); ok || cold.pays || cold.packed != 0 {
		t.Errorf("noise was compressed: %+v", cold)
	}
}
