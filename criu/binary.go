package criu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// PrivatePath is where `make deps` puts a CRIU when the distribution's own is too old.
const PrivatePath = "/usr/local/lib/zap/criu/sbin/criu"

// EnvBinary names the environment variable that points zap at a CRIU; when it
// is set no other is looked for.
const EnvBinary = "ZAP_CRIU"

// versionTimeout bounds one `criu --version`.
const versionTimeout = 10 * time.Second

// Binary is a CRIU executable that was asked for its version.
type Binary struct {
	Path    string // absolute
	Version int    // major*10000 + minor*100 + sublevel: 40201 is 4.2.1
	Source  string // where it was found: "ZAP_CRIU", "prefix", "PATH" or "sbin"
	SHA256  string // of the file, in hex
}

// VersionString returns the version as CRIU prints it, 4.2.1 or 4.2.
func (b *Binary) VersionString() string { return formatVersion(b.Version) }

func formatVersion(v int) string {
	s := fmt.Sprintf("%d.%d", v/10000, v/100%100)
	if v%100 != 0 {
		s += fmt.Sprintf(".%d", v%100)
	}
	return s
}

// Find returns the first CRIU that is new enough for this kernel, looking at
// $ZAP_CRIU, the private prefix, PATH and /usr/sbin, in this order. The error
// lists what was found and says what to do. The directory cache keeps what was
// found out, so that nothing has to be run the next time; empty for none.
func Find(ctx context.Context, cache string) (*Binary, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("find criu: uname: %w", err)
	}
	release := unix.ByteSliceToString(uts.Release[:])
	need := MinVersion(release)
	var seen []error
	for _, c := range candidates() {
		b, err := openKnown(ctx, c.path, cache)
		switch {
		case errors.Is(err, os.ErrNotExist) && c.source != "ZAP_CRIU":
			continue
		case err != nil:
			seen = append(seen, err)
			continue
		case b.Version < need:
			seen = append(seen, fmt.Errorf("%s is %s", b.Path, b.VersionString()))
			continue
		}
		b.Source = c.source
		return b, nil
	}
	hint := fmt.Sprintf("Linux %s needs CRIU %s or newer: install it, run `make deps`, or name one in %s",
		release, formatVersion(need), EnvBinary)
	if len(seen) == 0 {
		return nil, fmt.Errorf("find criu: none on this machine (%s)", hint)
	}
	return nil, fmt.Errorf("find criu: none that is new enough (%s): %w", hint, errors.Join(seen...))
}

type candidate struct{ path, source string }

func candidates() []candidate {
	if p := os.Getenv(EnvBinary); p != "" {
		return []candidate{{p, "ZAP_CRIU"}}
	}
	list := []candidate{{PrivatePath, "prefix"}}
	if p, err := exec.LookPath("criu"); err == nil {
		list = append(list, candidate{p, "PATH"})
	}
	return append(list, candidate{"/usr/sbin/criu", "sbin"})
}

// Open asks the CRIU at path for its version and sums its file.
func Open(ctx context.Context, path string) (*Binary, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open criu: %w", err)
	}
	sum, err := sumFile(path)
	if err != nil {
		return nil, fmt.Errorf("open criu: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = environment()
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("run %s --version: %w: %s", path, err, firstLine(out))
	}
	v, err := parseVersion(string(out))
	if err != nil {
		return nil, fmt.Errorf("run %s --version: %w", path, err)
	}
	return &Binary{Path: path, Version: v, SHA256: sum}, nil
}

func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func firstLine(b []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(b), []byte("\n"))
	return string(line)
}

// parseVersion reads the output of `criu --version`: "Version: 4.2.1".
func parseVersion(out string) (int, error) {
	for line := range strings.Lines(out) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "Version:"); ok {
			return versionNumber(strings.TrimSpace(v))
		}
	}
	return 0, fmt.Errorf("no version in %q", firstLine([]byte(out)))
}

// versionNumber turns "4.2.1" or "4.2" into 40201 or 40200; what follows the
// numbers, as in "4.3-dev", is left out.
func versionNumber(s string) (int, error) {
	var n [3]int
	for i, part := range strings.SplitN(s, ".", 3) {
		digits := part
		if end := strings.IndexFunc(part, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
			digits = part[:end]
		}
		v, err := strconv.Atoi(digits)
		if err != nil || v > 99 {
			return 0, fmt.Errorf("version %q is not a number", s)
		}
		n[i] = v
		if digits != part {
			break
		}
	}
	return n[0]*10000 + n[1]*100 + n[2], nil
}

// MinVersion returns the oldest CRIU version that zap accepts on a kernel
// release such as "6.18.44": 4.2 from Linux 6.16 on (SO_PASSSEC on TCP
// sockets), 4.1 from 6.13 on (vdso layout), and 3.19 otherwise, the first that
// can leave the network alone. A release that can't be read asks for 4.2.
func MinVersion(release string) int {
	major, rest, _ := strings.Cut(release, ".")
	minor := rest
	if end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		minor = rest[:end]
	}
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	switch {
	case errA != nil || errB != nil || a > 6 || a == 6 && b >= 16:
		return 40200
	case a == 6 && b >= 13:
		return 40100
	default:
		return 31900
	}
}

// environment is what CRIU and its helpers (tar, ip) get: nothing of the
// caller's, so that no CRIU_* variable or configuration in HOME changes a request.
func environment() []string {
	return []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
}
