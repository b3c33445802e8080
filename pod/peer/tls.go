package peer

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"
)

// ALPN is the application protocol that both sides must agree on in the TLS handshake. A new, incompatible version of
// PROTOCOL.md gets a new one.
const ALPN = "zap/1"

// LoadTLS reads the directory of one host, as InitKeys made it, and answers with the configurations for listening and
// for dialling. Both speak TLS 1.3 only, send their certificate and want the other side's to be signed by the same CA, for
// that use, within its time, and to name a host. There is no resumption: every connection proves its keys.
//
// Who doesn't know the CA's certificate can't get past the first message, so the listening side shows it not even its
// own certificate; who knows it but has no key of this CA is refused before a byte of the protocol.
//
// A dialled address says nothing about who answers. WithPeer pins the name where it is known.
func LoadTLS(dir string) (server, client *tls.Config, err error) {
	ca, err := readCert(filepath.Join(dir, FileCACert))
	if err != nil {
		return nil, nil, fmt.Errorf("load keys: %w", err)
	}
	if !ca.IsCA {
		return nil, nil, fmt.Errorf("load keys: %s is not a CA's certificate", filepath.Join(dir, FileCACert))
	}
	cert, err := loadCertificate(dir, ca)
	if err != nil {
		return nil, nil, fmt.Errorf("load keys: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	name := serverName(ca)
	base := tls.Config{
		Certificates:           []tls.Certificate{*cert},
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		NextProtos:             []string{ALPN},
		SessionTicketsDisabled: true,
		// Connections carry gigabytes: records are full from the first on.
		DynamicRecordSizingDisabled: true,
		VerifyConnection:            func(cs tls.ConnectionState) error { return verifyPeer(cs, "") },
	}
	client = base.Clone()
	client.RootCAs, client.ServerName = pool, name

	server = base.Clone()
	server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, pool
	server.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if hello.ServerName != name {
			return nil, errors.New("accept peer: it asks for a host of another CA")
		}
		if !slices.Contains(hello.SupportedProtos, ALPN) {
			return nil, fmt.Errorf("accept peer: it doesn't offer %s", ALPN)
		}
		return nil, nil
	}
	return server, client, nil
}

// loadCertificate reads the host's own certificate and key and checks them as the other side will, so that a mistake
// shows here and not as an alert over there.
func loadCertificate(dir string, ca *x509.Certificate) (*tls.Certificate, error) {
	path := filepath.Join(dir, FileCert)
	leaf, err := readCert(path)
	if err != nil {
		return nil, err
	}
	name, err := hostName(leaf)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, err := readKey(filepath.Join(dir, FileKey))
	if err != nil {
		return nil, err
	}
	a := authority{cert: ca}
	if err := a.checkHost(dir, name, leaf, time.Now()); err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// WithPeer answers with a copy of a configuration of LoadTLS that accepts only the host of that name on the other side.
func WithPeer(config *tls.Config, host string) *tls.Config {
	c := config.Clone()
	c.VerifyConnection = func(cs tls.ConnectionState) error { return verifyPeer(cs, host) }
	return c
}

// PeerName is the host on the other side of a connection, as its certificate says. It returns an error before the
// handshake is done and for a certificate that names no host.
func PeerName(cs tls.ConnectionState) (string, error) {
	if len(cs.PeerCertificates) == 0 {
		return "", errors.New("read peer's name: it has shown no certificate")
	}
	name, err := hostName(cs.PeerCertificates[0])
	if err != nil {
		return "", fmt.Errorf("read peer's name: %w", err)
	}
	return name, nil
}

// verifyPeer runs after the chain, the key usage and the times are checked by crypto/tls.
func verifyPeer(cs tls.ConnectionState, want string) error {
	if cs.NegotiatedProtocol != ALPN {
		return fmt.Errorf("verify peer: it speaks %q, not %s", cs.NegotiatedProtocol, ALPN)
	}
	name, err := PeerName(cs)
	if err != nil {
		return err
	}
	if want != "" && name != want {
		return fmt.Errorf("verify peer: it is %s, not %s", name, want)
	}
	return nil
}
