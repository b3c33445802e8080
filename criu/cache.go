package criu

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// kdatName is the file in its run directory in which CRIU keeps what it found
// out about the kernel.
const kdatName = "criu.kdat"

// maxKdat bounds that file; CRIU 4.2 writes some 800 bytes.
const maxKdat = 1 << 20

// bootIDPath changes with each boot: another boot may be another kernel.
const bootIDPath = "/proc/sys/kernel/random/boot_id"

// kdatCache is the place in a cache directory for one binary on one boot.
type kdatCache struct{ dir, name string }

// newKdatCache returns the place for b below dir.
func newKdatCache(dir string, b *Binary) (*kdatCache, error) {
	boot, err := bootPrefix()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(b.SHA256 + " " + b.VersionString()))
	return &kdatCache{dir: dir, name: boot + "-" + hex.EncodeToString(sum[:8])}, nil
}

// bootPrefix begins the names of what is kept for this boot.
func bootPrefix() (string, error) {
	id, err := os.ReadFile(bootIDPath)
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return kdatName + "-" + strings.TrimSpace(string(id)), nil
}

// load returns what is kept, or nil when there is nothing.
func (c *kdatCache) load() []byte {
	f, err := os.Open(filepath.Join(c.dir, c.name))
	if err != nil {
		return nil
	}
	defer f.Close()
	return readKdat(f)
}

func readKdat(r io.Reader) []byte {
	data, err := io.ReadAll(io.LimitReader(r, maxKdat+1))
	if err != nil || len(data) == 0 || len(data) > maxKdat {
		return nil
	}
	return data
}

// save keeps data, whole or not at all, and drops what earlier boots left.
func (c *kdatCache) save(data []byte) error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("make cache directory: %w", err)
	}
	if err := renameio.WriteFile(filepath.Join(c.dir, c.name), data, 0o600, renameio.WithTempDir(c.dir)); err != nil {
		return fmt.Errorf("save CRIU's kernel facts: %w", err)
	}
	stale, err := StaleCache(c.dir)
	for _, path := range stale {
		if rerr := os.Remove(path); !errors.Is(rerr, os.ErrNotExist) { // zap prune may have been faster
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// kdatIn returns the kernel facts that CRIU left in its run directory, or nil.
func kdatIn(run *os.File) []byte {
	fd, err := unix.Openat(int(run.Fd()), kdatName, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), kdatName)
	defer f.Close()
	return readKdat(f)
}
