package criu

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

func mmImage(mappings ...[]byte) []byte {
	data := binary.LittleEndian.AppendUint32(nil, commonMagic)
	data = binary.LittleEndian.AppendUint32(data, mmMagic)
	entry := message(1, 0x400000, 12, 1)
	for _, m := range mappings {
		entry = append(entry, message(fieldMappings, m)...)
	}
	entry = append(entry, message(15, 1)...)
	data = binary.LittleEndian.AppendUint32(data, uint32(len(entry)))
	return append(data, entry...)
}

func TestAccountReserved(t *testing.T) {
	// As CRIU 4.3 wrote them: start, end, prot, flags, status.
	reserved := message(1, 0x7f40b9c00000, 2, 0x7f40b9c01000, 3, 0, 4, 0, 5, 0, 6, 0x4022, 7, 0x40201, 8, 1)
	arena := message(1, 0xd3a1b000000, 2, 0xd3a1d800000, 3, 0, 4, 0, 5, 0, 6, 0x22, 7, 0x40201, 8, 1)
	plain := message(1, 0x7f40b7c00000, 2, 0x7f40b9c00000, 3, 0, 4, 0, 5, 3, 6, 0x4022, 7, 0x201, 8, 1)
	dir := t.TempDir()
	path := filepath.Join(dir, "mm-1.img")
	for name, data := range map[string][]byte{path: mmImage(arena, reserved, plain), filepath.Join(dir, "mm-1.txt"): []byte("no image")} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := mmImage(arena, append(bytes.Clone(reserved), message(7, 0x201)...), plain)
	for range 2 { // the second finds nothing to do
		if err := AccountReserved(dir); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("got  %x\nwant %x", got, want)
		}
	}
	if err := os.WriteFile(path, filesImage(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := AccountReserved(dir); err == nil {
		t.Error("an image of files was taken for one of an address space")
	}
}

func FuzzMMImage(f *testing.F) {
	f.Add(mmImage(message(1, 4096, 2, 8192, 6, 0x4022, 7, 0x40201)))
	f.Fuzz(func(_ *testing.T, data []byte) { _, _ = accountReserved(data) })
}
