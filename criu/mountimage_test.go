package criu

import (
	"bytes"
	"encoding/binary"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// mountEntry is an entry as CRIU writes it, with its length.
func mountEntry(target, key string) []byte {
	var e []byte
	e = protowire.AppendTag(e, 2, protowire.VarintType)
	e = protowire.AppendVarint(e, 42)
	e = protowire.AppendTag(e, 7, protowire.BytesType)
	e = protowire.AppendString(e, target)
	if key != "" {
		e = protowire.AppendTag(e, fieldExternal, protowire.VarintType)
		e = protowire.AppendVarint(e, 1)
		e = protowire.AppendTag(e, fieldExternalKey, protowire.BytesType)
		e = protowire.AppendString(e, key)
	}
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(e))), e...)
}

func mountImage(entries ...[]byte) []byte {
	data := binary.LittleEndian.AppendUint32(nil, commonMagic)
	data = binary.LittleEndian.AppendUint32(data, mountsMagic)
	return append(data, bytes.Join(entries, nil)...)
}

func TestMountAnew(t *testing.T) {
	have := mountImage(mountEntry("./", ""), mountEntry("./dev/mqueue", "zap-2"), mountEntry("./dev/shm", "zap-1"))
	want := mountImage(mountEntry("./", ""), mountEntry("./dev/mqueue", ""), mountEntry("./dev/shm", "zap-1"))
	got, err := mountAnew(have, []string{"zap-2"})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("got  %x\nwant %x", got, want)
	}
	for n := range have {
		if n == 8 || bytes.Equal(mountImage(mountEntry("./", "")), have[:n]) {
			continue
		}
		if got, err := mountAnew(have[:n], []string{"zap-2"}); err == nil && len(got) > n {
			t.Errorf("cut after %d bytes it grew to %d", n, len(got))
		}
	}
}

func FuzzMountAnew(f *testing.F) {
	f.Add(mountImage(mountEntry("./dev/mqueue", "zap-2")))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, err := mountAnew(data, []string{"zap-2"}); err == nil && len(got) > len(data)+8 {
			t.Errorf("%d bytes became %d", len(data), len(got))
		}
	})
}
