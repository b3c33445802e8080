package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
)

// Images of address spaces (images/mm.proto and vma.proto in CRIU).
const (
	mmMagic        = 0x57492820
	mmPrefix       = "mm-"
	fieldMappings  = 14 // mm_entry.vmas
	fieldVMAFlags  = 6  // mmap's
	fieldVMAStatus = 7
	vmaUnaccounted = 1 << 18 // since CRIU 4.3: the kernel does not charge for the mapping
)

var errMMImage = errors.New("not an image of an address space")

// AccountReserved changes the images of a dump, in dir, so that CRIU 4.3 can restore pages of mappings with MAP_NORESERVE that can't be
// accessed, when their memory comes from a parent's images. It takes a mapping that the kernel does not charge for, and that has no
// permissions, for address space that nobody has ever written to, maps its place without the right to write, and then fails to read
// pages into it (preadv: EFAULT). With MAP_NORESERVE nothing is charged whatever was written.
//
// The mark only spares the restore a charge for huge mappings, and for those with MAP_NORESERVE there is none. Images of other versions
// don't have it.
func AccountReserved(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read images: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), mmPrefix) || !strings.HasSuffix(e.Name(), ".img") {
			continue
		}
		if err := changeImage(filepath.Join(dir, e.Name()), accountReserved); err != nil {
			return err
		}
	}
	return nil
}

func accountReserved(data []byte) ([]byte, error) {
	if len(data) < 8 || binary.LittleEndian.Uint32(data) != commonMagic || binary.LittleEndian.Uint32(data[4:]) != mmMagic {
		return nil, errMMImage
	}
	return mapEntries(data, errMMImage, func(entry []byte) ([]byte, error) { return mapField(entry, fieldMappings, accountMapping) })
}

// accountMapping takes the mark off a vma_entry.
func accountMapping(entry []byte) ([]byte, error) {
	var flags, status uint64
	err := fields(entry, func(number protowire.Number, value uint64, _ []byte) {
		switch number {
		case fieldVMAFlags:
			flags = value
		case fieldVMAStatus:
			status = value
		}
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errMMImage, err)
	}
	if flags&unix.MAP_NORESERVE == 0 || status&vmaUnaccounted == 0 {
		return entry, nil
	}
	return appendVarint(entry, fieldVMAStatus, status&^vmaUnaccounted), nil
}
