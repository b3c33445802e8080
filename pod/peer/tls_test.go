package peer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const wait = 10 * time.Second

// initKeys makes keys in a fresh directory.
func initKeys(t testing.TB, hosts ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	if _, err := InitKeys(dir, hosts); err != nil {
		t.Fatal(err)
	}
	return dir
}

func load(t testing.TB, dir string) (server, client *tls.Config) {
	t.Helper()
	server, client, err := LoadTLS(dir)
	if err != nil {
		t.Fatal(err)
	}
	return server, client
}

// side is what one side of a handshake made of it.
type side struct {
	err   error
	state tls.ConnectionState
}

// handshake lets both sides meet over a loopback connection and answers with what each of them thought of it. When both
// are content the client has sent a byte and read one back, because in TLS 1.3 a client finishes before it is accepted.
func handshake(t testing.TB, server, client *tls.Config) (s, c side) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		conn := tls.Server(raw, server)
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(wait))
		if err = conn.Handshake(); err == nil {
			s.state = conn.ConnectionState()
			_, err = io.CopyN(conn, conn, 1)
		}
		done <- err
	}()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: wait}, "tcp", l.Addr().String(), client)
	if err == nil {
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(wait))
		c.state = conn.ConnectionState()
		if _, err = conn.Write([]byte{1}); err == nil {
			_, err = io.ReadFull(conn, make([]byte, 1))
		}
	}
	s.err, c.err = <-done, err
	return s, c
}

func TestHostsOfOneCAMeet(t *testing.T) {
	dir := initKeys(t, "alpha", "10.0.0.2")
	server, _ := load(t, filepath.Join(dir, "alpha"))
	_, client := load(t, filepath.Join(dir, "10.0.0.2"))
	s, c := handshake(t, server, WithPeer(client, "alpha"))
	if s.err != nil || c.err != nil {
		t.Fatalf("server: %v, client: %v", s.err, c.err)
	}
	ss, cs := s.state, c.state
	if got, _ := PeerName(ss); got != "10.0.0.2" {
		t.Errorf("the server met %q", got)
	}
	if got, _ := PeerName(cs); got != "alpha" {
		t.Errorf("the client met %q", got)
	}
	if ss.Version != tls.VersionTLS13 || ss.NegotiatedProtocol != ALPN || ss.DidResume {
		t.Errorf("version %x, protocol %q, resumed %v", ss.Version, ss.NegotiatedProtocol, ss.DidResume)
	}
}

func TestNoResumption(t *testing.T) {
	dir := initKeys(t, "alpha")
	server, client := load(t, filepath.Join(dir, "alpha"))
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for range 2 {
		s, c := handshake(t, server, client)
		if s.err != nil || c.err != nil || c.state.DidResume {
			t.Fatalf("server: %v, client: %v, resumed %v", s.err, c.err, c.state.DidResume)
		}
	}
}

// TestRefused changes one thing at a time in a client that would otherwise be let in, and wants the server to refuse it
// for that reason.
func TestRefused(t *testing.T) {
	dir := initKeys(t, "alpha", "beta")
	server, good := load(t, filepath.Join(dir, "alpha"))
	_, other := load(t, filepath.Join(initKeys(t, "alpha"), "alpha"))
	ca, _, err := openAuthority(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	// signed makes a certificate that differs from a good one in what change does to it.
	signed := func(now time.Time, change func(*x509.Certificate)) []tls.Certificate {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := *good.Certificates[0].Leaf
		change(&template)
		der, err := sign(&template, ca.cert, key.Public(), ca.key, now)
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	}
	same := func(*x509.Certificate) {}
	for _, tt := range []struct {
		name   string
		change func(*tls.Config)
		want   string
	}{
		{"no certificate", func(c *tls.Config) { c.Certificates = nil }, "didn't provide a certificate"},
		{"certificate of another CA", func(c *tls.Config) { c.Certificates = other.Certificates }, "signed by unknown authority"},
		{"asks for another CA", func(c *tls.Config) { *c = *other.Clone() }, "another CA"},
		{"expired", func(c *tls.Config) { c.Certificates = signed(time.Now().Add(-2*validity), same) }, "expired"},
		{"not yet good", func(c *tls.Config) { c.Certificates = signed(time.Now().Add(2*backdate), same) }, "not yet valid"},
		{"server's use only", func(c *tls.Config) {
			c.Certificates = signed(time.Now(), func(x *x509.Certificate) { x.ExtKeyUsage = x.ExtKeyUsage[:1] })
		}, "incompatible key usage"},
		{"names no peer", func(c *tls.Config) {
			c.Certificates = signed(time.Now(), func(x *x509.Certificate) { x.URIs = nil })
		}, "names no zap peer"},
		{"names a path", func(c *tls.Config) {
			c.Certificates = signed(time.Now(), func(x *x509.Certificate) {
				x.URIs = []*url.URL{{Scheme: uriScheme, Host: uriHost, Path: "/../alpha"}}
			})
		}, "names no zap peer"},
		{"TLS 1.2", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }, "unsupported versions"},
		{"no protocol", func(c *tls.Config) { c.NextProtos = nil }, "doesn't offer"},
		{"other protocol", func(c *tls.Config) { c.NextProtos = []string{"h2"} }, "doesn't offer"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, client := load(t, filepath.Join(dir, "alpha"))
			client.VerifyConnection = nil
			tt.change(client)
			s, c := handshake(t, server, client)
			if s.err == nil || !strings.Contains(s.err.Error(), tt.want) {
				t.Errorf("the server said %v, want something with %q", s.err, tt.want)
			}
			if c.err == nil {
				t.Error("the client got an answer")
			}
		})
	}
}

func TestClientRefusesServer(t *testing.T) {
	dir := initKeys(t, "alpha", "beta")
	server, client := load(t, filepath.Join(dir, "alpha"))
	if _, c := handshake(t, server, WithPeer(client, "gamma")); c.err == nil || !strings.Contains(c.err.Error(), "it is alpha, not gamma") {
		t.Errorf("another host than expected: %v", c.err)
	}
	// An impostor knows the CA's certificate, so it asks for and answers to the right name, but has no key of that CA.
	fake, _, err := openAuthority(initKeys(t, "alpha"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key := fake.key
	template := *server.Certificates[0].Leaf
	der, err := sign(&template, fake.cert, key.Public(), key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	server.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	if _, c := handshake(t, server, client); c.err == nil || !strings.Contains(c.err.Error(), "unknown authority") {
		t.Errorf("a server of another CA: %v", c.err)
	}
}

// TestStrangersLearnNothing sends a server what scanners send and looks at every byte that comes back.
func TestStrangersLearnNothing(t *testing.T) {
	dir := initKeys(t, "alpha")
	server, _ := load(t, filepath.Join(dir, "alpha"))
	shown := 0
	for _, tt := range []struct {
		name string
		talk func(net.Conn) error
		most int
	}{
		{"plain TCP", func(c net.Conn) error {
			if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
				return err
			}
			_, err := io.ReadFull(c, make([]byte, 1))
			return err
		}, 0},
		{"TLS without the CA", func(c net.Conn) error {
			return tls.Client(c, &tls.Config{
				InsecureSkipVerify: true, NextProtos: []string{ALPN},
				VerifyPeerCertificate: func(certs [][]byte, _ [][]*x509.Certificate) error { shown += len(certs); return nil },
			}).Handshake()
		}, 7}, // one alert: a header of five bytes, level and description
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := net.Pipe()
			defer b.Close()
			a.SetDeadline(time.Now().Add(wait))
			b.SetDeadline(time.Now().Add(wait))
			go func() {
				defer a.Close()
				tls.Server(a, server).Handshake()
			}()
			seen := &recorded{Conn: b}
			if err := tt.talk(seen); err == nil || os.IsTimeout(err) {
				t.Errorf("the server's answer: %v", err)
			}
			if seen.in.Len() > tt.most || shown != 0 {
				t.Errorf("answered %d bytes (% x) and %d certificates", seen.in.Len(), seen.in.Bytes(), shown)
			}
		})
	}
}

// recorded keeps what was read from a connection.
type recorded struct {
	net.Conn
	in bytes.Buffer
}

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.in.Write(p[:n])
	return n, err
}

func TestInitKeysAddsAndKeeps(t *testing.T) {
	dir := initKeys(t, "alpha")
	before := readTree(t, dir)
	made, err := InitKeys(dir, []string{"alpha", "beta"})
	if err != nil {
		t.Fatal(err)
	}
	if len(made) != 3 || made[0].New || made[1].New || !made[2].New || made[2].Host != "beta" {
		t.Errorf("made %+v", made)
	}
	after := readTree(t, dir)
	for name, data := range before {
		if after[name] != data {
			t.Errorf("%s was changed", name)
		}
	}
	for _, name := range []string{"beta/ca.crt", "beta/cert.pem", "beta/key.pem"} {
		if after[name] == "" {
			t.Errorf("%s is missing", name)
		}
	}
	if len(after) != len(before)+3 {
		t.Errorf("%d files, then %d", len(before), len(after))
	}
	for _, name := range []string{"ca.key", "alpha/key.pem", "beta/key.pem"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// TestInitKeysGoesOn takes away what a crash could have kept from being written and wants it made again, for the same key.
func TestInitKeysGoesOn(t *testing.T) {
	dir := initKeys(t, "alpha")
	key := readTree(t, dir)["alpha/key.pem"]
	for _, name := range []string{"ca.crt", "alpha/ca.crt", "alpha/cert.pem"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := InitKeys(dir, []string{"alpha"}); err != nil {
		t.Fatal(err)
	}
	load(t, filepath.Join(dir, "alpha"))
	if readTree(t, dir)["alpha/key.pem"] != key {
		t.Error("the key was replaced")
	}
}

func TestInitKeysRefuses(t *testing.T) {
	for _, host := range []string{"", "..", ".hidden", "-rf", "a/b", "ca.key", "ca.crt", "ä", "a b", strings.Repeat("x", 254)} {
		dir := t.TempDir()
		if _, err := InitKeys(dir, []string{"fine", host}); err == nil {
			t.Errorf("host %q was taken", host)
		}
		if got := readTree(t, dir); len(got) != 0 {
			t.Errorf("host %q left %d files", host, len(got))
		}
	}
	if _, err := InitKeys(t.TempDir(), []string{"a", "a"}); err == nil || !strings.Contains(err.Error(), "named twice") {
		t.Errorf("one host twice: %v", err)
	}
	dir := initKeys(t, "alpha")
	os.Remove(filepath.Join(dir, FileCAKey))
	if _, err := InitKeys(dir, []string{"alpha"}); err != nil {
		t.Errorf("nothing to do and no CA key: %v", err)
	}
	if _, err := InitKeys(dir, []string{"beta"}); err == nil || !strings.Contains(err.Error(), "where the CA was made") {
		t.Errorf("a host to add and no CA key: %v", err)
	}
}

func TestLoadTLSRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		spoil      func(t *testing.T, dir string)
	}{
		{"no directory", "no such file", func(t *testing.T, dir string) { os.RemoveAll(dir) }},
		{"key others can read", "chmod 600", func(t *testing.T, dir string) { os.Chmod(filepath.Join(dir, FileKey), 0o644) }},
		{"garbage", "not one PEM block", func(t *testing.T, dir string) { os.WriteFile(filepath.Join(dir, FileCert), []byte("x"), 0o644) }},
		{"huge", "more than", func(t *testing.T, dir string) { os.Truncate(filepath.Join(dir, FileCert), 1<<30) }},
		{"another CA", "another CA", func(t *testing.T, dir string) {
			data, _ := os.ReadFile(filepath.Join(initKeys(t, "alpha"), "alpha", FileCACert))
			os.WriteFile(filepath.Join(dir, FileCACert), data, 0o644)
		}},
		{"another key", "not its key", func(t *testing.T, dir string) {
			data, _ := os.ReadFile(filepath.Join(initKeys(t, "alpha"), "alpha", FileKey))
			os.WriteFile(filepath.Join(dir, FileKey), data, 0o600)
		}},
		{"not a CA", "not a CA", func(t *testing.T, dir string) {
			data, _ := os.ReadFile(filepath.Join(dir, FileCert))
			os.WriteFile(filepath.Join(dir, FileCACert), data, 0o644)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(initKeys(t, "alpha"), "alpha")
			tt.spoil(t, dir)
			if _, _, err := LoadTLS(dir); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want something with %q", err, tt.want)
			}
		})
	}
}

// BenchmarkHandshake compares the two kinds of key that could be used.
func BenchmarkHandshake(b *testing.B) {
	for _, kind := range []string{"p256", "ed25519"} {
		b.Run(kind, func(b *testing.B) {
			ca, cert := keyPair(b, kind)
			pool := x509.NewCertPool()
			pool.AddCert(ca)
			client := &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, ServerName: serverName(ca), MinVersion: tls.VersionTLS13}
			server := &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13}
			for b.Loop() {
				if s, c := handshake(b, server, client); s.err != nil || c.err != nil {
					b.Fatal(s.err, c.err)
				}
			}
		})
	}
}

func keyPair(b *testing.B, kind string) (*x509.Certificate, tls.Certificate) {
	b.Helper()
	fresh := func() crypto.Signer {
		if kind == "ed25519" {
			_, key, _ := ed25519.GenerateKey(rand.Reader)
			return key
		}
		key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		return key
	}
	caKey, key := fresh(), fresh()
	template := &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := sign(template, template, caKey.Public(), caKey, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	leaf, err := (&authority{cert: cert, key: caKey}).signHost("alpha", key.Public(), time.Now())
	if err != nil {
		b.Fatal(err)
	}
	return cert, tls.Certificate{Certificate: [][]byte{leaf}, PrivateKey: key}
}

// readTree answers with every file below dir by its path.
func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		files[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
