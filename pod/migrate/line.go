package migrate

import (
	"context"
	"time"

	"github.com/zap-migrate/zap/network/stream"
)

// line is a connection to the peer that is made beside other work: the two hosts prove to each other who they are meanwhile.
type line struct {
	dialer Dialer
	cancel context.CancelFunc
	ready  chan struct{}
	conn   *stream.Conn
	err    error
	made   time.Time
}

// stale is when a peer may soon lose patience with a connection on which nothing was said.
const stale = firstWithin / 4

// dialAhead begins to connect. Either take or drop must be called.
func dialAhead(ctx context.Context, d Dialer) *line {
	ctx, cancel := context.WithCancel(ctx)
	l := &line{dialer: d, cancel: cancel, ready: make(chan struct{})}
	go func() {
		defer close(l.ready)
		l.conn, l.err = d.Dial(ctx)
		l.made = time.Now()
	}()
	return l
}

// take waits for the connection, which is the caller's from now on. One that has waited for long is replaced.
func (l *line) take(ctx context.Context) (*stream.Conn, error) {
	<-l.ready
	conn, err := l.conn, l.err
	l.conn, l.err = nil, nil
	if err == nil && time.Since(l.made) > stale {
		_ = conn.Close()
		return l.dialer.Dial(ctx)
	}
	return conn, err
}

// drop closes a connection that nobody has taken.
func (l *line) drop() {
	if l == nil {
		return
	}
	l.cancel()
	<-l.ready
	if l.conn != nil {
		_ = l.conn.Close()
		l.conn = nil
	}
}
