package pages_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/zap-migrate/zap/network/stream"
)

// idle bounds every wait of a test.
const idle = 20 * time.Second

// slowness is how many times longer than usual a test that moves much data may take here: emulated machines say so in ZAP_TEST_SLOWNESS.
func slowness() time.Duration {
	n, _ := strconv.Atoi(os.Getenv("ZAP_TEST_SLOWNESS")) // 0 when nobody says
	return time.Duration(max(1, n))
}

// tcpPair returns both ends of a connection over loopback.
func tcpPair(tb testing.TB) (net.Conn, net.Conn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	type result struct {
		c   net.Conn
		err error
	}
	accepted := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		accepted <- result{c, err}
	}()
	a, err := net.DialTimeout("tcp", l.Addr().String(), idle)
	if err != nil {
		tb.Fatal(err)
	}
	b := <-accepted
	if b.err != nil {
		tb.Fatal(b.err)
	}
	tb.Cleanup(func() { a.Close(); b.c.Close() })
	return a, b.c
}

// tlsOver puts TLS 1.3 over both ends of a connection.
func tlsOver(tb testing.TB, a, b net.Conn) (*tls.Conn, *tls.Conn) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	config := &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, DynamicRecordSizingDisabled: true,
	}
	client, server := tls.Client(a, config), tls.Server(b, config)
	shook := make(chan error, 1)
	go func() { shook <- server.Handshake() }()
	if err := client.Handshake(); err != nil {
		tb.Fatal(err)
	}
	if err := <-shook; err != nil {
		tb.Fatal(err)
	}
	return client, server
}

// connPair returns two ends as zap has them: frames on TLS on large buffers on TCP.
func connPair(tb testing.TB) (*stream.Conn, *stream.Conn) {
	tb.Helper()
	a, b := tcpPair(tb)
	ta, tb2 := tlsOver(tb, stream.Buffered(a), stream.Buffered(b))
	ca, cb := stream.NewConn(ta), stream.NewConn(tb2)
	ca.SetIdle(idle)
	cb.SetIdle(idle)
	tb.Cleanup(func() { ca.Close(); cb.Close() })
	return ca, cb
}
