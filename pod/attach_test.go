package pod

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	sent := map[byte][]byte{FrameStdin: []byte("in"), FrameResize: {0, 24, 0, 80}, FrameStdout: bytes.Repeat([]byte("x"), frameMax), FrameExit: {0, 0, 0, 7}, FrameMoved: nil}
	for kind, data := range sent {
		b.Reset()
		if err := WriteFrame(&b, kind, data); err != nil {
			t.Fatal(err)
		}
		gotKind, got, err := ReadFrame(&b)
		if err != nil || gotKind != kind || !bytes.Equal(got, data) || b.Len() != 0 {
			t.Errorf("kind %d: read kind %d, %d bytes, %v, %d left", kind, gotKind, len(got), err, b.Len())
		}
	}
}

func TestFramesCut(t *testing.T) {
	for _, tt := range []struct {
		bytes []byte
		want  error
	}{
		{nil, io.EOF},
		{[]byte{FrameStdout}, io.ErrUnexpectedEOF},
		{[]byte{FrameStdout, 0, 0, 0}, io.ErrUnexpectedEOF},
		{[]byte{FrameStdout, 0, 0, 0, 1}, io.ErrUnexpectedEOF},
		{[]byte{FrameStdout, 0, 0, 0, 2, 'x'}, io.ErrUnexpectedEOF},
	} {
		if _, _, err := ReadFrame(bytes.NewReader(tt.bytes)); !errors.Is(err, tt.want) {
			t.Errorf("% x: %v, want %v", tt.bytes, err, tt.want)
		}
	}
	for _, length := range [][]byte{{0, 1, 0, 1}, {0xff, 0xff, 0xff, 0xff}} {
		if _, _, err := ReadFrame(bytes.NewReader(append([]byte{FrameStdout}, length...))); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a frame of % x bytes: %v", length, err)
		}
	}
}

// FuzzFrames reads anything; what it takes it writes as it was.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 2, 'h', 'i', 5, 0, 0, 0, 4, 0, 0, 0, 0})
	f.Add([]byte{3, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		var again bytes.Buffer
		for {
			kind, payload, err := ReadFrame(r)
			if err != nil {
				break
			}
			if err := WriteFrame(&again, kind, payload); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(data, again.Bytes()) {
			t.Errorf("read % x as % x", data, again.Bytes())
		}
	})
}
