package stream

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzRead reads frames out of anything: it must end, and with an error of this package's vocabulary or a decoder's.
func FuzzRead(f *testing.F) {
	f.Add(written(f, func(c *Conn) error {
		c.SetCompression(CompressAlways)
		return errors.Join(c.WriteJSON(1, "x"), c.Ping(), c.WriteData(2, bytes.Repeat([]byte("abc"), 2000)), c.WriteData(0x90, nil))
	}))
	f.Add([]byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{1, 2, 0, 0, 0, 0, 0, 4, 0x28, 0xb5, 0x2f, 0xfd})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := scripted(b)
		total := 0
		for {
			frame, err := c.Read()
			if err != nil {
				if errors.Is(err, io.EOF) && c.Meter().Counts().WireReceived > int64(len(b)) {
					t.Errorf("read %d bytes of %d", c.Meter().Counts().WireReceived, len(b))
				}
				return
			}
			if len(frame.Payload) > MaxPayload || frame.Type == 0 || frame.Type == TypePing {
				t.Fatalf("type %#x, %d bytes", frame.Type, len(frame.Payload))
			}
			if total++; total > len(b)/headerSize {
				t.Fatal("more frames than there can be")
			}
			var v any
			_ = frame.JSON(&v) // must not panic
		}
	})
}

// FuzzHello accepts only what put writes.
func FuzzHello(f *testing.F) {
	var b [helloSize]byte
	Versions{1, 2}.put(b[:])
	f.Add(b[:])
	f.Add([]byte("HTTP/1.1 200 OK\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := parseHello(b)
		if err != nil {
			if !errors.Is(err, ErrNotZap) {
				t.Error(err)
			}
			return
		}
		var again [helloSize]byte
		if v.put(again[:]); v.Oldest > v.Newest || !bytes.Equal(again[:helloSize-4], b[:helloSize-4]) {
			t.Errorf("%x gave %+v", b, v)
		}
	})
}

// seedRecords are payloads for the fuzzers, good and bad.
func seedRecords() [][]byte {
	return [][]byte{
		slices.Concat(entry(".", dir, ""), entry("f", file, "", xattr{"user.a", []byte("b")}), data(0, "content"), appendZero(nil, 100, 50), appendEnd(nil, 200),
			appendLink(nil, "g", "f"), entry("d", dir, ""), entry("d/l", link, "../f"), entry("d/p", unix.S_IFIFO|0o600, "")),
		slices.Concat(entry("l", link, ".."), entry("l/x", dir, ""), appendRemove(nil, "l/x")),
		slices.Concat(appendRemove(nil, "d"), appendRemove(nil, "f"), entry("f", dir, ""), entry("f/f", file, ""), appendEnd(nil, 3)),
		entry("../x", dir, ""), appendLink(nil, "/etc/passwd", "../../x"),
		{recordNode, 0xff, 0xff, 0xff, 0xff, 0x0f},
	}
}

// FuzzRecords decodes anything. What is decoded must be within bounds, and encoding it again must give the same.
func FuzzRecords(f *testing.F) {
	for _, s := range seedRecords() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := cursor{b: b}
		var r record
		for c.next(&r) {
			if r.path != "" && checkPath(r.path) != nil || len(r.target) > maxTarget || r.offset < 0 || r.length < 0 || r.offset+r.length < 0 {
				t.Fatalf("%+v", r)
			}
			var again record
			second := cursor{b: encode(&r)}
			if !second.next(&again) || len(second.b) != 0 || !bytes.Equal(encode(&again), encode(&r)) {
				t.Fatalf("%+v came back as %+v, %v", r, again, second.err)
			}
		}
	})
}

func encode(r *record) []byte {
	switch r.kind {
	case recordNode:
		return appendNode(nil, &Entry{Path: r.path, Mode: r.mode, UID: r.uid, GID: r.gid, Mtime: r.mtime, Rdev: r.rdev}, r.target, r.xattrs)
	case recordLink:
		return appendLink(nil, r.path, r.target)
	case recordRemove:
		return appendRemove(nil, r.path)
	case recordData:
		return data(r.offset, string(r.data))
	case recordZero:
		return appendZero(nil, r.offset, r.length)
	}
	return appendEnd(nil, r.length)
}

// FuzzApply applies anything to a directory. Nothing beside it may change.
func FuzzApply(f *testing.F) {
	for _, s := range seedRecords() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		parent := t.TempDir()
		root, outside := filepath.Join(parent, "root"), filepath.Join(parent, "outside")
		check(t, os.Mkdir(root, 0o755), os.Mkdir(outside, 0o755), os.WriteFile(filepath.Join(outside, "f"), nil, 0o644),
			os.Symlink("../outside", filepath.Join(root, "o")), touch(outside, 5, 5))
		before := describe(t, outside)
		r := &treeReceiver{limits: Limits{MaxBytes: 1 << 20, MaxEntries: 100, MaxDepth: 20}, dirs: make(map[string]Time), file: -1}
		check(t, r.open(root))
		if r.frame(b) == nil {
			_ = r.finish()
		}
		r.closeFile()
		r.b.close()
		for path, line := range describe(t, outside) {
			if before[path] != line {
				t.Fatalf("outside: %s: %s, was %s", path, line, before[path])
			}
			delete(before, path)
		}
		if names, _ := filepath.Glob(filepath.Join(parent, "*")); len(before) != 0 || len(names) != 2 {
			t.Fatalf("gone: %v; beside the root: %v", before, names)
		}
	})
}

// FuzzUnpack never gives more than a payload may have.
func FuzzUnpack(f *testing.F) {
	var k packer
	k.ready()
	f.Add(k.enc.EncodeAll(bytes.Repeat([]byte("seed "), 1000), nil))
	f.Add(k.enc.EncodeAll(make([]byte, 2*MaxPayload), nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var u unpacker
		out, err := u.unpack(nil, b)
		if len(out) > MaxPayload || err != nil && len(out) > 0 {
			t.Fatalf("%d bytes, %v", len(out), err)
		}
	})
}
