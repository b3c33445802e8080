package stream

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// MaxPayload is the largest payload of a frame in bytes, both on the wire and after decompression.
const MaxPayload = 1 << 20

// headerSize is the length of what precedes every payload.
const headerSize = 8

// Frame types that this package itself gives a meaning. Types below 0x40 belong to the user of a connection, 0x60 to 0x7f to the page
// channel. Types from 0x80 are optional: who does not know one skips it.
const (
	// TypePing is an empty frame that only proves that its sender is alive. Read swallows it.
	TypePing uint8 = 0x80

	typeTreeBegin uint8 = 0x40 // JSON treeBegin, sender to receiver
	typeTreeData  uint8 = 0x41 // records
	typeTreeEnd   uint8 = 0x42 // JSON treeEnd, sender to receiver
	typeTreeDone  uint8 = 0x43 // JSON treeDone, receiver to sender
)

// Flags of a frame.
const (
	flagJSON uint8 = 1 << 0 // the payload is a JSON document
	flagZstd uint8 = 1 << 1 // the payload is one zstd frame
)

// ErrTooLarge is met by a frame whose length, on the wire or unpacked, is beyond MaxPayload.
var ErrTooLarge = errors.New("frame is larger than 1 MiB")

// errHeader is met by a header that no version of this protocol writes.
var errHeader = errors.New("malformed frame header")

// Frame is one unit of a connection.
type Frame struct {
	Type    uint8
	Control bool   // the payload is JSON
	Payload []byte // belongs to the connection, valid until its next read
}

// Optional says whether a receiver that does not know the frame's type may ignore it.
func (f Frame) Optional() bool { return f.Type >= 0x80 }

// JSON decodes the payload of a control frame into v. It fails for a data frame and for what is not a JSON document for v.
func (f Frame) JSON(v any) error {
	if !f.Control {
		return fmt.Errorf("decode frame of type %#02x: data where a document was expected", f.Type)
	}
	if err := json.Unmarshal(f.Payload, v); err != nil {
		return fmt.Errorf("decode frame of type %#02x: %w", f.Type, err)
	}
	return nil
}

// header is the fixed part of a frame.
type header struct {
	typ, flags uint8
	length     int
}

// put writes the header to the first eight bytes of b.
func (h header) put(b []byte) {
	b[0], b[1], b[2], b[3] = h.typ, h.flags, 0, 0
	binary.BigEndian.PutUint32(b[4:], uint32(h.length))
}

// parseHeader is the inverse of put and refuses what put never writes.
func parseHeader(b []byte) (header, error) {
	h := header{typ: b[0], flags: b[1]}
	if h.typ == 0 || h.flags&^(flagJSON|flagZstd) != 0 || b[2] != 0 || b[3] != 0 {
		return header{}, fmt.Errorf("%w: % x", errHeader, b[:headerSize])
	}
	length := binary.BigEndian.Uint32(b[4:])
	if length > MaxPayload {
		return header{}, fmt.Errorf("%w: %d bytes announced", ErrTooLarge, length)
	}
	h.length = int(length)
	return h, nil
}
