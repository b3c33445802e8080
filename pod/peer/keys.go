package peer

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The files of a key directory, as InitKeys lays them out: FileCACert and FileCAKey at its top, and in the directory of
// each host FileCACert, FileCert and FileKey. A host needs its own directory only, the CA's key stays where it was made.
const (
	FileCACert = "ca.crt"
	FileCAKey  = "ca.key"
	FileCert   = "cert.pem"
	FileKey    = "key.pem"
)

const (
	// validity is how long the certificates of a CA are good, and the CA itself. There is no renewal daemon that could
	// fail at night, so it is long; a host is shut out by making a new CA.
	validity = 10 * 365 * 24 * time.Hour
	// backdate lets a certificate be used at once on a host whose clock is behind the one that made it.
	backdate = 24 * time.Hour

	uriScheme = "zap"
	uriHost   = "peer"

	maxHostName = 253
	maxPEMFile  = 64 << 10
)

// Made tells what InitKeys did for one certificate.
type Made struct {
	Host string // the host's name, empty for the CA itself
	Dir  string // the directory that holds the files
	New  bool   // false: everything was there already and nothing was touched
}

// authority is a CA as it is in memory. key is nil where only the certificate is at hand: existing hosts can then be
// checked, but none added.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// InitKeys makes a CA in dir and a key and certificate for each of hosts in dir/HOST. It adds what is missing and never
// replaces a key or a certificate that is there, so it can be run again with more hosts. Keys are Ed25519 (a handshake is
// a tenth quicker than with P-256, see BenchmarkHandshake) and readable by their owner only. It answers with one entry for
// the CA and one for each host, in the order given.
//
// It returns an error for a host name that is not a plain DNS name or IPv4 address, for files that are there but don't
// fit together, and where a host is to be added but the CA's key is elsewhere.
func InitKeys(dir string, hosts []string) ([]Made, error) {
	for i, h := range hosts {
		if err := checkHostName(h); err != nil {
			return nil, err
		}
		if slices.Contains(hosts[:i], h) {
			return nil, fmt.Errorf("add host %q: named twice", h)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make key directory: %w", err)
	}
	ca, fresh, err := openAuthority(dir, time.Now())
	if err != nil {
		return nil, err
	}
	made := []Made{{Dir: dir, New: fresh}}
	for _, h := range hosts {
		fresh, err := ca.addHost(filepath.Join(dir, h), h, time.Now())
		if err != nil {
			return made, fmt.Errorf("add host %s: %w", h, err)
		}
		made = append(made, Made{Host: h, Dir: filepath.Join(dir, h), New: fresh})
	}
	return made, nil
}

// checkHostName says whether name can be a host: it becomes a directory, a part of a URI and something people type.
func checkHostName(name string) error {
	bad := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
	}
	switch {
	case name == "":
		return errors.New("add host: the name is empty")
	case len(name) > maxHostName:
		return fmt.Errorf("add host %.20q...: the name has %d bytes, the limit is %d", name, len(name), maxHostName)
	case strings.IndexFunc(name, bad) >= 0 || strings.ContainsRune(".-_", rune(name[0])):
		return fmt.Errorf("add host %q: a name has letters, digits, '.', '-' and '_' and begins with a letter or digit", name)
	case name == FileCACert || name == FileCAKey:
		return fmt.Errorf("add host %q: that name is taken by a file of the CA", name)
	}
	return nil
}

// openAuthority reads the CA in dir, or makes what is missing of it. The answer true says that something was made.
func openAuthority(dir string, now time.Time) (*authority, bool, error) {
	keyPath, certPath := filepath.Join(dir, FileCAKey), filepath.Join(dir, FileCACert)
	cert, certErr := readCert(certPath)
	if certErr != nil && !errors.Is(certErr, fs.ErrNotExist) {
		return nil, false, certErr
	}
	if certErr == nil {
		key, err := readKey(keyPath)
		if errors.Is(err, fs.ErrNotExist) {
			return &authority{cert: cert}, false, checkAuthority(certPath, cert, nil, now)
		}
		if err != nil {
			return nil, false, err
		}
		return &authority{cert: cert, key: key}, false, checkAuthority(certPath, cert, key, now)
	}
	key, err := readOrMakeKey(keyPath)
	if err != nil {
		return nil, false, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "zap"},
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := sign(template, template, key.Public(), key, now)
	if err != nil {
		return nil, false, fmt.Errorf("sign CA certificate: %w", err)
	}
	if err := writeNew(certPath, "CERTIFICATE", der, 0o644); err != nil {
		return nil, false, err
	}
	cert, err = x509.ParseCertificate(der)
	return &authority{cert: cert, key: key}, true, err
}

func checkAuthority(path string, cert *x509.Certificate, key crypto.Signer, now time.Time) error {
	switch {
	case !cert.IsCA:
		return fmt.Errorf("read CA %s: the certificate is not a CA's", path)
	case now.After(cert.NotAfter):
		return fmt.Errorf("read CA %s: expired on %s (make a new one in another directory)", path, cert.NotAfter.Format(time.DateOnly))
	case key != nil && !samePublic(cert.PublicKey, key):
		return fmt.Errorf("read CA %s: %s is not its key", path, FileCAKey)
	}
	return nil
}

// addHost makes what is missing in the host's directory, and checks what is there.
func (ca *authority) addHost(dir, host string, now time.Time) (bool, error) {
	cert, err := readCert(filepath.Join(dir, FileCert))
	if err == nil {
		return false, ca.checkHost(dir, host, cert, now)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if ca.key == nil {
		return false, fmt.Errorf("sign certificate: the CA's key %s is not here (run this where the CA was made)", FileCAKey)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	key, err := readOrMakeKey(filepath.Join(dir, FileKey))
	if err != nil {
		return false, err
	}
	der, err := ca.signHost(host, key.Public(), now)
	if err != nil {
		return false, err
	}
	// The certificate comes last: where it is, the rest is.
	if err := writeNew(filepath.Join(dir, FileCACert), "CERTIFICATE", ca.cert.Raw, 0o644); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	return true, writeNew(filepath.Join(dir, FileCert), "CERTIFICATE", der, 0o644)
}

func (ca *authority) signHost(host string, public crypto.PublicKey, now time.Time) ([]byte, error) {
	der, err := sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: host},
		URIs:        []*url.URL{{Scheme: uriScheme, Host: uriHost, Path: "/" + host}},
		DNSNames:    []string{serverName(ca.cert)},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca.cert, public, ca.key, now)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return der, nil
}

// checkHost says whether the files of a host that is there already belong together and to this CA.
func (ca *authority) checkHost(dir, host string, cert *x509.Certificate, now time.Time) error {
	path := filepath.Join(dir, FileCert)
	if err := cert.CheckSignatureFrom(ca.cert); err != nil {
		return fmt.Errorf("check %s: signed by another CA", path)
	}
	if name, err := hostName(cert); err != nil || name != host {
		return fmt.Errorf("check %s: the certificate is not for host %q", path, host)
	}
	if now.After(cert.NotAfter) {
		return fmt.Errorf("check %s: expired on %s (remove that file to have the same key signed again)", path, cert.NotAfter.Format(time.DateOnly))
	}
	if now.Before(cert.NotBefore) {
		return fmt.Errorf("check %s: good from %s on, and here it is %s (set this host's clock)", path, cert.NotBefore.Format(time.DateTime), now.Format(time.DateTime))
	}
	key, err := readKey(filepath.Join(dir, FileKey))
	if err != nil {
		return err
	}
	if !samePublic(cert.PublicKey, key) {
		return fmt.Errorf("check %s: %s is not its key", path, FileKey)
	}
	return nil
}

// serverName is the name that every host of a CA answers to. It is made from the CA's public key, so who doesn't have
// the CA's certificate can't ask for it, and asking a host of another CA fails at the first message.
func serverName(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:16]) + ".zap-peer"
}

// hostName takes the host's name out of its certificate.
func hostName(cert *x509.Certificate) (string, error) {
	for _, u := range cert.URIs {
		if name, ok := strings.CutPrefix(u.Path, "/"); ok && u.Scheme == uriScheme && u.Host == uriHost && checkHostName(name) == nil {
			return name, nil
		}
	}
	return "", errors.New("the certificate names no zap peer")
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer, now time.Time) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = now.Add(-backdate), now.Add(validity)
	return x509.CreateCertificate(rand.Reader, template, parent, public, key)
}

func samePublic(public crypto.PublicKey, key crypto.Signer) bool {
	p, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && p.Equal(public)
}

// readOrMakeKey reads the private key at path, or makes it where there is none. Of two that make it at the same time one
// wins and both get that one's.
func readOrMakeKey(path string) (crypto.Signer, error) {
	key, err := readKey(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	_, fresh, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", path, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(fresh)
	if err != nil {
		return nil, fmt.Errorf("make key %s: %w", path, err)
	}
	if err := writeNew(path, "PRIVATE KEY", der, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return readKey(path)
}

func readKey(path string) (crypto.Signer, error) {
	der, err := readPEM(path, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("read key %s: a %T can't sign", path, key)
	}
	return signer, nil
}

func readCert(path string) (*x509.Certificate, error) {
	der, err := readPEM(path, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", path, err)
	}
	return cert, nil
}

// readPEM reads the one block of a small file. A private key that others can read is refused.
func readPEM(path, kind string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if kind == "PRIVATE KEY" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read key %s: mode %04o lets others read it (chmod 600 it)", path, info.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPEMFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxPEMFile {
		return nil, fmt.Errorf("read %s: more than %d bytes", path, maxPEMFile)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != kind || len(strings.TrimSpace(string(rest))) != 0 {
		return nil, fmt.Errorf("read %s: not one PEM block of type %s", path, kind)
	}
	return block.Bytes, nil
}

// writeNew writes a file that must not be there yet, whole or not at all, and returns an error that is fs.ErrExist
// where it is.
func writeNew(path, kind string, der []byte, mode fs.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		f.Close()
		os.Remove(f.Name())
	}()
	if err := pem.Encode(f, &pem.Block{Type: kind, Bytes: der}); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := errors.Join(f.Chmod(mode), f.Sync()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Link(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
