package remote

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
)

// mostInFrame bounds a frame's body, in bytes.
const mostInFrame = 1 << 20

// The types of frames.
const (
	typeRequest byte = 'r' // client: Request, in JSON
	typeStdin   byte = '0' // client: a piece of standard input; an empty one is its end
	typeSignal  byte = 's' // client: one byte, the number of a signal for the process group
	typeStdout  byte = '1' // server
	typeStderr  byte = '2' // server
	typeExit    byte = 'x' // server: Exit, in JSON; the last frame
)

// Request is a command to run.
type Request struct {
	Args []string `json:"args"`          // the first is looked for in PATH
	Env  []string `json:"env,omitempty"` // NAME=VALUE, added to the server's environment
	Dir  string   `json:"dir,omitempty"` // working directory, / by default
}

// Exit is how a command ended.
type Exit struct {
	Code  int    `json:"code"`            // exit code; 128 and the signal's number when a signal ended it
	Error string `json:"error,omitempty"` // why it could not be started; Code is 127 then
}

// wire writes frames to a connection, one at a time, and reads them.
type wire struct {
	conn net.Conn
	mu   sync.Mutex
}

// write sends one frame.
func (w *wire) write(typ byte, body []byte) error {
	frame := make([]byte, 5+len(body))
	frame[0] = typ
	binary.BigEndian.PutUint32(frame[1:], uint32(len(body)))
	copy(frame[5:], body)
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.conn.Write(frame)
	return err
}

func (w *wire) writeJSON(typ byte, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.write(typ, body)
}

// read takes the next frame; io.EOF where the other side ended between two.
func (w *wire) read() (typ byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(w.conn, head[:]); err != nil {
		return 0, nil, err
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > mostInFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes", size)
	}
	body = make([]byte, size)
	if _, err := io.ReadFull(w.conn, body); err != nil {
		return 0, nil, io.ErrUnexpectedEOF
	}
	return head[0], body, nil
}

// copyFrom sends what r has as frames of a type, until its end.
func (w *wire) copyFrom(typ byte, r io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 && w.write(typ, buf[:n]) != nil {
			return
		}
		if err != nil {
			return
		}
	}
}
