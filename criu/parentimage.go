package criu

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// What CRIU's inventory image looks like (images/inventory.proto).
const (
	inventoryMagic      = 0x58313116
	fieldImageVersion   = 1
	fieldDumpUptime     = 8
	fieldPreDumpMode    = 9
	imageVersion        = 2
	preDumpRead         = 2 // by reading the memory of running processes
	parentInventoryName = "inventory.img"
)

// SetParent makes a dump into the directory images, which options name, one that follows another of which nothing but the directory name is
// there: its page server says which processes have memory there. CRIU then sends only the pages of these that were written to since soft-dirty
// bits were last cleared, and says of the others where they are (criu(8), --track-mem, --prev-images-dir).
//
// CRIU wants to know when the earlier dump was, for it takes a process that is younger for another one with the same id. The page server knows
// that better, so the time is one that no process is younger than.
func SetParent(options *rpc.CriuOpts, images, name string) error {
	dir := filepath.Join(images, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the parent's image directory: %w", err)
	}
	var entry []byte
	for _, f := range []struct {
		number protowire.Number
		value  uint64
	}{{fieldImageVersion, imageVersion}, {fieldDumpUptime, math.MaxInt64}, {fieldPreDumpMode, preDumpRead}} {
		entry = protowire.AppendTag(entry, f.number, protowire.VarintType)
		entry = protowire.AppendVarint(entry, f.value)
	}
	data := binary.LittleEndian.AppendUint32(nil, inventoryMagic) // the only image without the common one before
	data = binary.LittleEndian.AppendUint32(data, uint32(len(entry)))
	if err := os.WriteFile(filepath.Join(dir, parentInventoryName), append(data, entry...), 0o600); err != nil {
		return fmt.Errorf("write the parent's inventory: %w", err)
	}
	options.TrackMem, options.ParentImg = proto.Bool(true), proto.String(name)
	return nil
}

// DropParent removes what SetParent has made.
func DropParent(images, name string) error {
	if err := os.RemoveAll(filepath.Join(images, name)); err != nil {
		return fmt.Errorf("remove the parent's image directory: %w", err)
	}
	return nil
}
