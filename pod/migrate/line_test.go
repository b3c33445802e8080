package migrate

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/zap-migrate/zap/network/stream"
)

// slowPeer gives its connections in turn, and an error for nil.
type slowPeer struct{ conns []*stream.Conn }

var errSlow = errors.New("greet peer: unexpected EOF")

func (p *slowPeer) Dial(context.Context) (*stream.Conn, error) {
	if len(p.conns) == 0 || p.conns[0] == nil {
		p.conns = p.conns[min(1, len(p.conns)):]
		return nil, errSlow
	}
	conn := p.conns[0]
	p.conns = p.conns[1:]
	return conn, nil
}

// TestAttachLaneAgain wants a connection that was made ahead in vain to be made once more, and not for ever.
func TestAttachLaneAgain(t *testing.T) {
	c, _, _ := controlled(t)
	near, far := pair(t)
	for _, tt := range []struct {
		name string
		peer slowPeer
		err  error
	}{
		{"slow once", slowPeer{[]*stream.Conn{nil, near}}, nil},
		{"gone", slowPeer{}, errSlow},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &Source{Dialer: &tt.peer, Log: slog.New(slog.DiscardHandler), control: c, Options: Options{Idle: patience}}
			conn, err := s.attachLane(soon(t), laneFiles, dialAhead(t.Context(), s.Dialer), "token", nil)
			if !errors.Is(err, tt.err) {
				t.Fatalf("%v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			f, err := far.Read()
			if err != nil || f.Type != frameAttach {
				t.Errorf("the target is told %+v, %v", f, err)
			}
			far.Close()
			conn.Close()
		})
	}
}
