package criu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// Reopened is an open file that was dumped as external, and by which path in
// the tree it is to be opened again.
type Reopened struct {
	Key   string // as in the dump's external option: file[MNTID:INODE]
	Path  string // absolute, in the tree
	Mount int    // id of the mount that the path is on, at the dump (proc(5), mountinfo)
}

// ExternalFile is the key of an open file that CRIU shall not look into.
func ExternalFile(mount int, inode uint64) string { return fmt.Sprintf("file[%x:%x]", mount, inode) }

const (
	filesMagic     = 0x56303138
	fieldFileReg   = 3 // file_entry.reg
	fieldRegName   = 6
	fieldRegMount  = 7 // sint32
	fieldRegExt    = 9
	maxFilesImage  = 1 << 30
	filesImageName = "files.img"
)

var errFileImage = errors.New("not an image of files")

// ReopenByPath changes the images of a dump, in dir, so that files that were
// external for the dump are opened by a path at the restore. A descriptor that
// mq_open(3) made is on a mount that nobody sees; the same queue can be opened
// in the mqueue file system of the tree.
func ReopenByPath(dir string, files []Reopened) error {
	if len(files) == 0 {
		return nil
	}
	return changeImage(filepath.Join(dir, filesImageName), func(data []byte) ([]byte, error) { return reopenByPath(data, files) })
}

// changeImage writes an image as change makes it, if that differs.
func changeImage(path string, change func([]byte) ([]byte, error)) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	changed, err := change(data)
	if err != nil {
		return fmt.Errorf("read image %s: %w", filepath.Base(path), err)
	}
	if bytes.Equal(changed, data) {
		return nil
	}
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

func reopenByPath(data []byte, files []Reopened) ([]byte, error) {
	if len(data) < 8 || len(data) > maxFilesImage || binary.LittleEndian.Uint32(data) != commonMagic ||
		binary.LittleEndian.Uint32(data[4:]) != filesMagic {
		return nil, errFileImage
	}
	return mapEntries(data, errFileImage, func(entry []byte) ([]byte, error) {
		return mapField(entry, fieldFileReg, func(reg []byte) ([]byte, error) { return reopenEntry(reg, files) })
	})
}

// reopenEntry gives a reg_file_entry its path, if its name is a key of files.
func reopenEntry(reg []byte, files []Reopened) ([]byte, error) {
	var kept []byte
	var file *Reopened
	for rest := reg; len(rest) > 0; {
		number, _, n := protowire.ConsumeField(rest)
		if n < 0 {
			return nil, fmt.Errorf("%w: %w", errFileImage, protowire.ParseError(n))
		}
		field := rest[:n]
		rest = rest[n:]
		switch number {
		case fieldRegName:
			_, _, tag := protowire.ConsumeTag(field)
			name, _ := protowire.ConsumeBytes(field[tag:])
			if i := slices.IndexFunc(files, func(f Reopened) bool { return f.Key == string(name) }); i >= 0 {
				file = &files[i]
				kept = protowire.AppendTag(kept, fieldRegName, protowire.BytesType)
				kept = protowire.AppendString(kept, file.Path)
				continue
			}
			kept = append(kept, field...)
		case fieldRegExt, fieldRegMount:
		default:
			kept = append(kept, field...)
		}
	}
	if file == nil {
		return reg, nil
	}
	kept = protowire.AppendTag(kept, fieldRegMount, protowire.VarintType)
	return protowire.AppendVarint(kept, protowire.EncodeZigZag(int64(file.Mount))), nil
}

// mapEntries changes each entry of an image: after the two magic numbers, each
// has its length before it.
func mapEntries(data []byte, malformed error, change func([]byte) ([]byte, error)) ([]byte, error) {
	out := slices.Clone(data[:8])
	for rest := data[8:]; len(rest) > 0; {
		if len(rest) < 4 {
			return nil, malformed
		}
		size := int64(binary.LittleEndian.Uint32(rest))
		if size > int64(len(rest)-4) {
			return nil, malformed
		}
		entry, err := change(rest[4 : 4+size])
		if err != nil {
			return nil, err
		}
		out = binary.LittleEndian.AppendUint32(out, uint32(len(entry)))
		out = append(out, entry...)
		rest = rest[4+size:]
	}
	return out, nil
}

// mapField changes each occurrence of a message field.
func mapField(message []byte, wanted protowire.Number, change func([]byte) ([]byte, error)) ([]byte, error) {
	var out []byte
	for rest := message; len(rest) > 0; {
		number, typ, n := protowire.ConsumeField(rest)
		if n < 0 {
			return nil, fmt.Errorf("%w: %w", errFileImage, protowire.ParseError(n))
		}
		field := rest[:n]
		rest = rest[n:]
		if number != wanted || typ != protowire.BytesType {
			out = append(out, field...)
			continue
		}
		_, _, tag := protowire.ConsumeTag(field)
		value, _ := protowire.ConsumeBytes(field[tag:])
		changed, err := change(value)
		if err != nil {
			return nil, err
		}
		out = protowire.AppendTag(out, number, typ)
		out = protowire.AppendBytes(out, changed)
	}
	return out, nil
}
