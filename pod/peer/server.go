package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/zap-migrate/zap/network/stream"
)

// maxConnections bounds what strangers can make the server hold.
const maxConnections = 256

// acceptAgain is how long to wait when a connection can't be taken.
const acceptAgain = 100 * time.Millisecond

// Handler speaks with an authenticated peer, from, until the conversation is over.
type Handler interface {
	Handle(ctx context.Context, conn *stream.Conn, from string) error
}

// Server takes connections of peers.
type Server struct {
	Handler Handler
	Log     *slog.Logger

	config   *tls.Config
	listener net.Listener
}

// Listen begins to listen on address, HOST:PORT, with the keys of this host in dir.
func Listen(ctx context.Context, address, dir string) (*Server, error) {
	config, _, err := LoadTLS(dir)
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	listener, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for peers: %w", err)
	}
	return &Server{config: config, listener: listener}, nil
}

// Address is where the server listens.
func (s *Server) Address() string { return s.listener.Addr().String() }

// Serve takes connections until ctx ends, and waits for the conversations
// under way to notice.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer stop()
	var conversations sync.WaitGroup
	defer conversations.Wait()
	room := make(chan struct{}, maxConnections)
	for {
		raw, err := s.listener.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				raw.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept peer: %w", err)
		case err != nil: // for want of descriptors or memory, say: pods that are here must go on
			s.Log.Warn("accept peer", "error", err.Error())
			select {
			case <-ctx.Done():
			case <-time.After(acceptAgain):
			}
			continue
		}
		select {
		case room <- struct{}{}:
		default:
			s.Log.Warn("too many connections", "from", raw.RemoteAddr().String())
			raw.Close()
			continue
		}
		conversations.Add(1)
		go func() {
			defer func() { <-room; conversations.Done() }()
			s.converse(ctx, raw)
		}()
	}
}

// converse authenticates one connection and hands it on. Strangers learn nothing.
func (s *Server) converse(ctx context.Context, raw net.Conn) {
	defer raw.Close()
	greeting, cancel := context.WithTimeout(ctx, greetTimeout)
	secured := tls.Server(stream.Buffered(raw), s.config)
	err := secured.HandshakeContext(greeting)
	var conn *stream.Conn
	if err == nil {
		conn, err = greet(greeting, secured)
	}
	cancel()
	if err != nil {
		s.Log.Warn("refuse connection", "from", raw.RemoteAddr().String(), "error", err.Error())
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Stop(context.Cause(ctx)) })
	defer stop()
	from, err := PeerName(secured.ConnectionState())
	if err == nil {
		err = s.Handler.Handle(ctx, conn, from)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.Log.Warn("conversation ended", "from", from, "error", err.Error())
	}
}
