package peer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/zap-migrate/zap/network/stream"
)

// versions is the range of the protocol that this program speaks (PROTOCOL.md).
var versions = stream.Versions{Oldest: 1, Newest: 1}

const (
	dialTimeout  = 5 * time.Second
	greetTimeout = 15 * time.Second // which is for hosts that are too busy, and so are to be moved away from
)

// Client makes authenticated connections to one peer.
type Client struct {
	address string
	config  *tls.Config
}

// NewClient returns a client for the peer at address, HOST:PORT, with the keys
// of this host in dir.
func NewClient(address, dir string) (*Client, error) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, fmt.Errorf("peer %s: %w", address, err)
	}
	_, config, err := LoadTLS(dir)
	if err != nil {
		return nil, err
	}
	return &Client{address: address, config: config}, nil
}

// Dial connects, proves who both are and agrees on a version.
func (c *Client) Dial(ctx context.Context) (*stream.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout+greetTimeout)
	defer cancel()
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: -1}
	dialer.SetMultipathTCP(false)
	raw, err := dialer.DialContext(ctx, "tcp", c.address)
	if err != nil {
		return nil, fmt.Errorf("connect to peer: %w", err)
	}
	secured := tls.Client(stream.Buffered(raw), c.config)
	if err := secured.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("connect to peer %s: %w", c.address, err)
	}
	return greet(ctx, secured)
}

// greet agrees with the other side on the protocol's version.
func greet(ctx context.Context, secured net.Conn) (*stream.Conn, error) {
	conn := stream.NewConn(secured)
	stop := context.AfterFunc(ctx, func() { conn.Stop(context.Cause(ctx)) })
	_, err := conn.Handshake(versions)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}
