package criu

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// message builds a protobuf message of numbers and, for strings and bytes, their content.
func message(fields ...any) []byte {
	var m []byte
	for i := 0; i < len(fields); i += 2 {
		number := protowire.Number(fields[i].(int))
		switch v := fields[i+1].(type) {
		case int:
			m = protowire.AppendVarint(protowire.AppendTag(m, number, protowire.VarintType), uint64(v))
		case string:
			m = protowire.AppendString(protowire.AppendTag(m, number, protowire.BytesType), v)
		case []byte:
			m = protowire.AppendBytes(protowire.AppendTag(m, number, protowire.BytesType), v)
		}
	}
	return m
}

func filesImage(entries ...[]byte) []byte {
	data := binary.LittleEndian.AppendUint32(nil, commonMagic)
	data = binary.LittleEndian.AppendUint32(data, filesMagic)
	for _, e := range entries {
		data = binary.LittleEndian.AppendUint32(data, uint32(len(e)))
		data = append(data, e...)
	}
	return data
}

func TestReopenByPath(t *testing.T) {
	key := ExternalFile(238, 0x11)
	if key != "file[ee:11]" {
		t.Fatalf("key %q", key)
	}
	plain := message(1, 1, 2, 4, 3, message(1, 4, 2, 0, 3, 0, 6, "/etc/passwd", 7, 2))
	have := filesImage(plain, message(1, 1, 2, 5, 3, message(1, 5, 2, 2050, 3, 0, 6, key, 9, 1, 10, 33152)))
	want := filesImage(plain, message(1, 1, 2, 5, 3, message(1, 5, 2, 2050, 3, 0, 6, "/dev/mqueue/q", 10, 33152, 7, 2*57)))
	got, err := reopenByPath(have, []Reopened{{Key: key, Path: "/dev/mqueue/q", Mount: 57}})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

func TestRearmTimers(t *testing.T) {
	expired := message(1, 9, 4, 1, 5, 3, 6, 0, 7, 0, 8, 0, 9, 2, 10, 500)
	running := message(1, 9, 4, 1, 5, 3, 6, 0, 7, 1, 8, 0, 9, 2, 10, 500)
	quiet := message(1, 9, 4, 1, 5, 0, 6, 0, 7, 0, 8, 0, 9, 2, 10, 500)
	dir := t.TempDir()
	path := filepath.Join(dir, filesImageName)
	have := filesImage(message(1, 9, 2, 1, 12, expired), message(1, 9, 2, 2, 12, running), message(1, 9, 2, 3, 12, quiet))
	if err := os.WriteFile(path, have, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RearmTimers(dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rearmed := append(bytes.Clone(expired), message(7, 2, 8, 500)...)
	want := filesImage(message(1, 9, 2, 1, 12, rearmed), message(1, 9, 2, 2, 12, running), message(1, 9, 2, 3, 12, quiet))
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

func FuzzFileImages(f *testing.F) {
	f.Add(filesImage(message(1, 1, 2, 5, 3, message(1, 5, 6, "file[ee:11]", 9, 1))))
	f.Add(filesImage(message(1, 9, 2, 1, 12, message(5, 3, 9, 2))))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = reopenByPath(data, []Reopened{{Key: "file[ee:11]", Path: "/q"}})
		_, _ = mapEntries(append(make([]byte, 8), data...), errFileImage, func(e []byte) ([]byte, error) { return mapField(e, fieldFileTimer, rearm) })
	})
}
