package pod

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Frames of an attached connection: one byte of kind, four bytes of length
// (big endian), then the bytes.
const (
	FrameStdin  byte = 1 // client: bytes for the pod; none closes its standard input
	FrameResize byte = 2 // client: rows and columns, two bytes each
	FrameStdout byte = 3
	FrameStderr byte = 4
	FrameExit   byte = 5 // the program has ended: its code, four bytes; the last frame
	FrameMoved  byte = 6 // the pod has moved to the peer named: the last frame

	frameMax = 64 << 10
)

// WriteFrame sends one frame of an attached connection.
func WriteFrame(w io.Writer, kind byte, data []byte) error {
	_, err := w.Write(frame(kind, data))
	return err
}

// ReadFrame receives one frame of an attached connection.
func ReadFrame(r io.Reader) (kind byte, data []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > frameMax {
		return 0, nil, fmt.Errorf("attached connection: frame of %d bytes, more than %d", n, frameMax)
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return head[0], data, nil
}
