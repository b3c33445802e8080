package criu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// known is what a cache directory keeps about a CRIU executable, so that it need not be run and summed before every move. It counts as long as
// the file is the same; a session asks the running CRIU for its version all the same.
type known struct {
	Path    string `json:"path"`
	Dev     uint64 `json:"dev"`
	Ino     uint64 `json:"ino"`
	Size    int64  `json:"size"`
	Written int64  `json:"written"` // nanoseconds since the epoch,
	Changed int64  `json:"changed"` // the inode, too
	Version int    `json:"version"`
	SHA256  string `json:"sha256"`
}

// identify fills in what tells one file from another.
func identify(path string) (k known, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return k, err
	}
	return known{Path: path, Dev: st.Dev, Ino: st.Ino, Size: st.Size, Written: st.Mtim.Nano(), Changed: st.Ctim.Nano()}, nil
}

// knownPath is the file about the executable at path.
func knownPath(cache, path string) string {
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(cache, "criu-"+hex.EncodeToString(sum[:8])+".json")
}

// openKnown is Open with what the directory cache knows, and keeps there what Open finds out. An empty cache knows nothing.
func openKnown(ctx context.Context, path, cache string) (*Binary, error) {
	if cache == "" {
		return Open(ctx, path)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	now, err := identify(path)
	if err != nil {
		return Open(ctx, path) // which says what is wrong
	}
	at := knownPath(cache, path)
	var was known
	if data, err := os.ReadFile(at); err == nil && json.Unmarshal(data, &was) == nil {
		now.Version, now.SHA256 = was.Version, was.SHA256
		if was == now && was.Version > 0 && len(was.SHA256) == 2*sha256.Size {
			return &Binary{Path: path, Version: was.Version, SHA256: was.SHA256}, nil
		}
	}
	b, err := Open(ctx, path)
	if err != nil || isScript(path) { // which may run another CRIU tomorrow
		return b, err
	}
	now.Version, now.SHA256 = b.Version, b.SHA256
	if data, err := json.Marshal(now); err == nil && os.MkdirAll(cache, 0o700) == nil {
		_ = renameio.WriteFile(at, data, 0o600, renameio.WithTempDir(cache)) // else it is found out again
	}
	return b, nil
}

// isScript says whether the file at path has an interpreter.
func isScript(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return true
	}
	defer f.Close()
	start := make([]byte, 2)
	n, _ := f.Read(start)
	return n < len(start) || bytes.Equal(start, []byte("#!"))
}
