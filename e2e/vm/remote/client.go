package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

// Streams are a command's standard streams and signals on the client's side. Nil ones are empty, or not looked at.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Signals        <-chan syscall.Signal // for the command's process group
}

// Run runs a command over conn, which it closes, to its end or the context's. The error says that the connection broke or the context
// ended; the command is killed then.
func Run(ctx context.Context, conn net.Conn, r Request, s Streams) (*Exit, error) {
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok { // a machine that was killed says nothing any more
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 6})
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	w := &wire{conn: conn}
	if err := w.writeJSON(typeRequest, r); err != nil {
		return nil, fmt.Errorf("send request: %w", err)
	}
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		if s.Stdin != nil {
			w.copyFrom(typeStdin, s.Stdin)
		}
		_ = w.write(typeStdin, nil)
	}()
	go func() {
		for {
			select {
			case sig := <-s.Signals:
				_ = w.write(typeSignal, []byte{byte(sig)})
			case <-ended:
				return
			}
		}
	}()
	exit, err := w.follow(s)
	if err != nil && ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return exit, err
}

// follow takes the command's output until its exit.
func (w *wire) follow(s Streams) (*Exit, error) {
	for {
		typ, body, err := w.read()
		if err != nil {
			return nil, fmt.Errorf("the connection to the machine broke: %w", err)
		}
		var to io.Writer
		switch typ {
		case typeStdout:
			to = s.Stdout
		case typeStderr:
			to = s.Stderr
		case typeExit:
			exit := new(Exit)
			return exit, json.Unmarshal(body, exit)
		}
		if to == nil {
			continue
		}
		if _, err := to.Write(body); err != nil {
			return nil, err
		}
	}
}
