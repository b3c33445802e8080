package e2e

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/zap-migrate/zap/pod/peer"
)

// Frame is a frame of the peers' protocol, as PROTOCOL.md has it.
type Frame struct {
	Type    byte
	JSON    bool
	Payload []byte
}

const (
	helloLength  = 16
	headerLength = 8
	flagJSON     = 1
	flagZstd     = 2
)

// Mallory stands between two peers with keys of their own CA and changes what the source says to the target.
type Mallory struct {
	Addr string // where the source is to connect

	server, client *tls.Config
	from           NetNS
	to             string
	listener       net.Listener
	mu             sync.Mutex // one frame at a time, on whichever connection
	change         func(*Frame)
	conversations  sync.WaitGroup
}

// NewMallory listens in the namespace, at an address of it, and passes on to the peer to, with the keys in dir. change sees
// every frame from the source and may change it.
func NewMallory(t testing.TB, in NetNS, address, to, dir string, change func(*Frame)) *Mallory {
	t.Helper()
	m := &Mallory{from: in, to: to, change: change}
	var err error
	if m.server, m.client, err = peer.LoadTLS(dir); err != nil {
		t.Fatal(err)
	}
	if err := in.Do(func() (err error) {
		m.listener, err = net.Listen("tcp", address)
		return err
	}); err != nil {
		t.Fatalf("listen for a victim: %v", err)
	}
	m.Addr = m.listener.Addr().String()
	m.conversations.Add(1)
	go m.accept()
	t.Cleanup(func() {
		m.listener.Close()
		m.conversations.Wait()
	})
	return m
}

func (m *Mallory) accept() {
	defer m.conversations.Done()
	for {
		raw, err := m.listener.Accept()
		if err != nil {
			return
		}
		m.conversations.Add(1)
		go func() {
			defer m.conversations.Done()
			m.relay(tls.Server(raw, m.server))
		}()
	}
}

// relay passes one connection on until either side closes it, or for two minutes.
func (m *Mallory) relay(source *tls.Conn) {
	defer source.Close()
	raw, err := m.from.Dial(m.to, 5*time.Second)
	if err != nil {
		return
	}
	target := tls.Client(raw, m.client)
	defer target.Close()
	for _, c := range []*tls.Conn{source, target} {
		c.SetDeadline(time.Now().Add(2 * time.Minute))
	}
	back := make(chan struct{})
	go func() {
		defer close(back)
		io.Copy(source, target)
		source.Close()
	}()
	m.forward(target, source)
	target.Close()
	<-back
}

// forward copies the greeting as it is and the frames after it as change wants them.
func (m *Mallory) forward(to io.Writer, from io.Reader) error {
	if _, err := io.CopyN(to, from, helloLength); err != nil {
		return err
	}
	unpack, err := zstd.NewReader(nil)
	if err != nil {
		return err
	}
	defer unpack.Close()
	for {
		f, err := readFrame(from, unpack)
		if err != nil {
			return err
		}
		m.mu.Lock()
		m.change(f)
		m.mu.Unlock()
		if err := writeFrame(to, f); err != nil {
			return err
		}
	}
}

func readFrame(from io.Reader, unpack *zstd.Decoder) (*Frame, error) {
	var head [headerLength]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(head[4:])
	if length > 16<<20 {
		return nil, errors.New("the source's frame is too long")
	}
	f := &Frame{Type: head[0], JSON: head[1]&flagJSON != 0, Payload: make([]byte, length)}
	_, err := io.ReadFull(from, f.Payload)
	if err == nil && head[1]&flagZstd != 0 {
		f.Payload, err = unpack.DecodeAll(f.Payload, nil)
	}
	return f, err
}

func writeFrame(to io.Writer, f *Frame) error {
	head := make([]byte, headerLength, headerLength+len(f.Payload))
	head[0] = f.Type
	if f.JSON {
		head[1] = flagJSON
	}
	binary.BigEndian.PutUint32(head[4:], uint32(len(f.Payload)))
	_, err := to.Write(append(head, f.Payload...))
	return err
}
