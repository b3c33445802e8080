package criu

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protowire"
)

// Inode says by which path of the tree's root file system an inode is found.
type Inode struct {
	Dev  uint32 // in the kernel's form, major<<20 | minor
	Ino  uint64
	Path string // absolute
}

// WriteInodes puts into the work directory of a dump the names of inodes that
// are watched with inotify. CRIU asks the file system for them by handle, which
// an overlay does not know, and would search some directories of the tree for
// them; it looks into this cache first, and checks what it finds there.
func WriteInodes(work string, inodes []Inode) error {
	if len(inodes) == 0 {
		return nil
	}
	const (
		serviceMagic = 0x55105940
		cacheMagic   = 0x57004059
	)
	data := binary.LittleEndian.AppendUint32(nil, serviceMagic)
	data = binary.LittleEndian.AppendUint32(data, cacheMagic)
	for _, i := range inodes {
		var e []byte
		e = protowire.AppendTag(e, 1, protowire.VarintType)
		e = protowire.AppendVarint(e, uint64(i.Dev))
		e = protowire.AppendTag(e, 2, protowire.VarintType)
		e = protowire.AppendVarint(e, i.Ino)
		e = protowire.AppendTag(e, 3, protowire.BytesType)
		e = protowire.AppendString(e, i.Path)
		data = binary.LittleEndian.AppendUint32(data, uint32(len(e)))
		data = append(data, e...)
	}
	if err := os.WriteFile(filepath.Join(work, "irmap-cache"), data, 0o600); err != nil {
		return fmt.Errorf("write names of inodes: %w", err)
	}
	return nil
}
