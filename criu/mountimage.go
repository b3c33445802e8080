package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// The image of a mount namespace: two magic numbers, then entries, each with
// its length before it (images/mnt.proto in CRIU).
const (
	commonMagic      = 0x54564319
	mountsMagic      = 0x55563928
	mountsPrefix     = "mountpoints-"
	fieldExternal    = 13 // ext_mount
	fieldExternalKey = 18 // ext_key
	maxMountsImage   = 64 << 20
)

// MountAnew changes the images of a dump, in dir, so that the external mounts
// called keys are mounted anew at the restore, as CRIU does with file systems
// of the kernel. CRIU refuses to dump an mqueue file system that has queues in
// it; as an external mount it is not looked into.
func MountAnew(dir string, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read images: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), mountsPrefix) {
			continue
		}
		err := changeImage(filepath.Join(dir, e.Name()), func(data []byte) ([]byte, error) { return mountAnew(data, keys) })
		if err != nil {
			return err
		}
	}
	return nil
}

var errMountImage = errors.New("not an image of mounts")

func mountAnew(data []byte, keys []string) ([]byte, error) {
	if len(data) < 8 || len(data) > maxMountsImage || binary.LittleEndian.Uint32(data) != commonMagic ||
		binary.LittleEndian.Uint32(data[4:]) != mountsMagic {
		return nil, errMountImage
	}
	return mapEntries(data, errMountImage, func(entry []byte) ([]byte, error) { return withoutKey(entry, keys) })
}

// withoutKey takes from an entry, if its key is among keys, what says that it
// is external.
func withoutKey(entry []byte, keys []string) ([]byte, error) {
	var kept []byte
	wanted := false
	for rest := entry; len(rest) > 0; {
		number, _, n := protowire.ConsumeField(rest)
		if n < 0 {
			return nil, fmt.Errorf("%w: %w", errMountImage, protowire.ParseError(n))
		}
		field := rest[:n]
		rest = rest[n:]
		switch number {
		case fieldExternalKey:
			_, _, tag := protowire.ConsumeTag(field)
			key, _ := protowire.ConsumeBytes(field[tag:])
			wanted = slices.Contains(keys, string(key))
		case fieldExternal:
		default:
			kept = append(kept, field...)
		}
	}
	if !wanted {
		return entry, nil
	}
	return kept, nil
}
