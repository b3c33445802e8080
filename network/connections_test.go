package network

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
)

// TestHoldConnections holds one of two connections to a listener and looks that the other goes on, that nobody
// new gets through, and that nothing is left afterwards.
func TestHoldConnections(t *testing.T) {
	needsRoot(t)
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		s := newSpace(t)
		var listener net.Listener
		var clients [2]net.Conn
		err := inside(s.ns, func() (err error) {
			if listener, err = net.Listen("tcp", address); err != nil {
				return err
			}
			for i := range clients {
				if clients[i], err = net.Dial("tcp", listener.Addr().String()); err != nil {
					return err
				}
				t.Cleanup(func() { clients[i].Close() })
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		var servers [2]net.Conn
		for i := range servers {
			if servers[i], err = listener.Accept(); err != nil {
				t.Fatal(err)
			}
			defer servers[i].Close()
		}
		held := Connection{addrPort(servers[0].LocalAddr()), addrPort(servers[0].RemoteAddr())}
		port := held.Local.Port()
		for range 2 { // a second hold changes nothing
			if err := HoldConnections(s.ns, []Connection{held}, []uint16{port}); err != nil {
				t.Fatal(err)
			}
		}
		if err := say(clients[0], servers[0], 150*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: on a held connection: %v, want a timeout", address, err)
		}
		if err := say(servers[1], clients[1], patience); err != nil {
			t.Errorf("%s: on another connection: %v", address, err)
		}
		err = inside(s.ns, func() error {
			c, err := net.DialTimeout("tcp", listener.Addr().String(), 100*time.Millisecond)
			if err == nil {
				c.Close()
			}
			return err
		})
		if e := net.Error(nil); !errors.As(err, &e) || !e.Timeout() {
			t.Errorf("%s: a request to a held port: %v, want a timeout", address, err)
		}
		other := Connection{held.Remote, held.Local}
		if err := ReleaseConnections(s.ns, []Connection{held, other}, []uint16{port}); err != nil {
			t.Fatal(err)
		}
		if err := say(servers[0], clients[0], patience); err != nil {
			t.Errorf("%s: after the release: %v", address, err)
		}
		if left := tablesOf(t, s); len(left) > 0 {
			t.Errorf("%s: %d tables are left", address, len(left))
		}
		if err := ReleaseConnections(s.ns, []Connection{held}, nil); err != nil {
			t.Errorf("%s: second release: %v", address, err)
		}
	}
}

// TestReleaseOne releases one container's connection and looks that another's stays held.
func TestReleaseOne(t *testing.T) {
	needsRoot(t)
	s := newSpace(t)
	one := Connection{netip.MustParseAddrPort("192.0.2.1:80"), netip.MustParseAddrPort("192.0.2.9:4000")}
	two := Connection{netip.MustParseAddrPort("[2001:db8::1]:80"), netip.MustParseAddrPort("[2001:db8::9]:4000")}
	for _, c := range []Connection{one, two} {
		if err := HoldConnections(s.ns, []Connection{c}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := ReleaseConnections(s.ns, []Connection{one}, nil); err != nil {
		t.Fatal(err)
	}
	if n := len(tablesOf(t, s)); n != 1 {
		t.Fatalf("%d tables, want the one of the other connection", n)
	}
	if err := ReleaseConnections(s.ns, []Connection{two}, nil); err != nil {
		t.Fatal(err)
	}
	if n := len(tablesOf(t, s)); n != 0 {
		t.Fatalf("%d tables are left", n)
	}
}

func addrPort(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

// say sends a byte from one end of a connection to the other and waits for it.
func say(from, to net.Conn, patience time.Duration) error {
	if _, err := from.Write([]byte{'x'}); err != nil {
		return err
	}
	to.SetReadDeadline(time.Now().Add(patience))
	_, err := to.Read(make([]byte, 1))
	return err
}

func tablesOf(t *testing.T, s *space) []*nftables.Table {
	t.Helper()
	c, err := nftables.New(nftables.WithNetNSFd(int(s.ns.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	tables, err := c.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	return tables
}
