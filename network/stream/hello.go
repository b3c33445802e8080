package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Errors of Handshake that a caller tells apart.
var (
	// ErrNotZap is met by a peer whose first bytes are not zap's.
	ErrNotZap = errors.New("peer does not speak zap")
	// ErrPeerTooOld is met by a peer whose newest version is older than the oldest spoken here.
	ErrPeerTooOld = errors.New("peer's zap is too old")
	// ErrPeerTooNew is met by a peer whose oldest version is newer than the newest spoken here.
	ErrPeerTooNew = errors.New("peer's zap is too new")
)

// magic opens every connection. The line end shows transports that translate text.
const magic = "zap\x00\r\n\x1a\n"

// helloSize is magic, oldest and newest version, and four bytes kept for later.
const helloSize = len(magic) + 8

// Versions is the range of protocol versions that one side speaks.
type Versions struct{ Oldest, Newest uint16 }

// Handshake exchanges magic and versions with the peer, both sides at once, and returns the newest version that both speak. It is the
// first thing on a connection, before any frame.
func (c *Conn) Handshake(own Versions) (uint16, error) {
	var hello [helloSize]byte
	own.put(hello[:])
	wrote := make(chan error, 1)
	go func() {
		c.wmu.Lock()
		defer c.wmu.Unlock()
		wrote <- c.writeSlice(hello[:])
	}()
	var answer [helloSize]byte
	n, err := c.readFull(answer[:])
	if err != nil && (n == 0 || string(answer[:min(n, len(magic))]) == magic[:min(n, len(magic))]) {
		return 0, c.explain("greet", "silent", err)
	}
	other, err := parseHello(answer[:])
	if err != nil {
		return 0, fmt.Errorf("greet %s: %w", c, err)
	}
	if err := <-wrote; err != nil {
		return 0, c.explain("greet", "takes no data", err)
	}
	version, err := own.agree(other)
	if err != nil {
		return 0, fmt.Errorf("greet %s: %w", c, err)
	}
	return version, nil
}

func (v Versions) put(b []byte) {
	n := copy(b, magic)
	binary.BigEndian.PutUint16(b[n:], v.Oldest)
	binary.BigEndian.PutUint16(b[n+2:], v.Newest)
}

// parseHello reads what put wrote; the last four bytes may hold anything.
func parseHello(b []byte) (Versions, error) {
	if len(b) < helloSize || string(b[:len(magic)]) != magic {
		return Versions{}, ErrNotZap
	}
	n := len(magic)
	v := Versions{Oldest: binary.BigEndian.Uint16(b[n:]), Newest: binary.BigEndian.Uint16(b[n+2:])}
	if v.Oldest > v.Newest {
		return Versions{}, fmt.Errorf("%w: versions %d to %d", ErrNotZap, v.Oldest, v.Newest)
	}
	return v, nil
}

// agree picks the newest version of both ranges.
func (v Versions) agree(peer Versions) (uint16, error) {
	switch {
	case peer.Newest < v.Oldest:
		return 0, fmt.Errorf("%w: it speaks versions %d to %d, this side %d to %d", ErrPeerTooOld, peer.Oldest, peer.Newest, v.Oldest, v.Newest)
	case peer.Oldest > v.Newest:
		return 0, fmt.Errorf("%w: it speaks versions %d to %d, this side %d to %d", ErrPeerTooNew, peer.Oldest, peer.Newest, v.Oldest, v.Newest)
	}
	return min(v.Newest, peer.Newest), nil
}
