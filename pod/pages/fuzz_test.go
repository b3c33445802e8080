package pages

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/network/stream"
)

func criuCommand(word uint32, pages, address, destination uint64) []byte {
	b := binary.LittleEndian.AppendUint32(nil, word)
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint64(b, pages)
	b = binary.LittleEndian.AppendUint64(b, address)
	return binary.LittleEndian.AppendUint64(b, destination)
}

// dumpStream is what CRIU writes for a small dump.
func dumpStream() []byte {
	full := bytes.Repeat([]byte{7}, int(pageSize))
	return bytes.Join([][]byte{
		criuCommand(criuOpen, 0, 0, 5<<8|kindProcess),
		criuCommand(criuAddFlags|flagPresent<<criuCommandBits, 3, 0x1000, 5<<8|kindProcess), full, zeroPage, full,
		criuCommand(criuAddFlags|flagLazy<<criuCommandBits, 9, 0x9000, 5<<8|kindProcess),
		criuCommand(criuOpen, 0, 0, 6<<8|kindShared),
		criuCommand(criuAdd, 2, 0x1000, 6<<8|kindShared), zeroPage, zeroPage,
		criuCommand(criuForceClose, 0, 0, 0),
	}, nil)
}

// asBatch cuts a stream into one batch as a Sender does.
func asBatch(stream []byte) ([]byte, error) {
	t := batch{buf: bytes.Clone(stream)}
	for len(t.buf) > t.done {
		before := len(t.buf) - t.done
		if _, err := t.next(); err != nil {
			return nil, err
		}
		if len(t.buf)-t.done == before {
			break
		}
	}
	return appendMarks(t.buf[:t.done], t.marks), nil
}

// FuzzBatch applies anything to images. Nothing but images may appear, and no more than was paid for in the payload or by marks.
func FuzzBatch(f *testing.F) {
	good, err := asBatch(dumpStream())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(append(bytes.Clone(good[:len(good)-4]), 0xff, 0xff, 0xff, 0xff))
	f.Add(appendMarks(criuCommand(criuOpen, 0, 0, 1<<8|1), []mark{{32, 1 << 30, false}}))
	f.Add(appendMarks(criuCommand(criuOpen, 0, 0, 1<<8|1), []mark{{32, 1, true}}))
	f.Add(appendMarks(criuCommand(criuAdd, 1, 0, 1<<8|1), nil))
	f.Fuzz(func(t *testing.T, payload []byte) {
		path := t.TempDir()
		dir, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		r := receiver{images: images{dir: dir}, limits: Limits{MaxBytes: 1 << 30, MaxImages: 10, MaxEntries: 1000}}
		err = r.batch(payload)
		if err == nil {
			err = r.images.finish()
		}
		_ = r.images.abandon()
		if err != nil && !errors.Is(err, errProtocol) && !errors.Is(err, ErrLimit) && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
		if r.stats.Bytes > int64(len(payload)) || r.stats.Pages*int64(pageSize) > r.limits.MaxBytes+int64(r.left) && err == nil {
			t.Fatalf("%+v from %d bytes", r.stats, len(payload))
		}
		names, _ := filepath.Glob(filepath.Join(path, "page*.img"))
		all, _ := os.ReadDir(path)
		if len(all) != len(names) || len(all) > 2*r.limits.MaxImages {
			t.Fatalf("%v", all)
		}
	})
}

// FuzzStream cuts anything that CRIU might write at two places: what comes out must not depend on where it was cut.
func FuzzStream(f *testing.F) {
	f.Add(dumpStream(), uint16(33), uint16(5000))
	f.Add(dumpStream(), uint16(64), uint16(64+4096))
	f.Add([]byte("no such command, but long enough for one"), uint16(3), uint16(4))
	f.Fuzz(func(t *testing.T, stream []byte, first, second uint16) {
		if len(stream) > batchRoom {
			return
		}
		whole, wholeErr := asBatch(stream)
		cuts := batch{}
		var err error
		rest := stream
		for _, n := range []int{int(first), int(second), len(stream)} {
			n = min(n, len(rest))
			cuts.buf = append(cuts.buf, rest[:n]...)
			rest = rest[n:]
			for before := -1; err == nil && before != cuts.done; {
				before = cuts.done
				_, err = cuts.next()
			}
		}
		if (err == nil) != (wholeErr == nil) {
			t.Fatalf("whole: %v, cut: %v", wholeErr, err)
		}
		if pieces := appendMarks(cuts.buf[:cuts.done], cuts.marks); err == nil && !bytes.Equal(pieces, whole) {
			t.Fatalf("whole %d bytes, cut %d", len(whole), len(pieces))
		}
	})
}

// FuzzMarks decodes anything and encodes what it got.
func FuzzMarks(f *testing.F) {
	f.Add(appendMarks([]byte("body"), []mark{{0, 1, false}, {0, 2, true}, {4, 7, false}}))
	f.Add(make([]byte, 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		body, marks, err := cutMarks(b, nil)
		if err != nil {
			return
		}
		if again := appendMarks(bytes.Clone(body), marks); !bytes.Equal(again, b) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

func TestBatchesFitIntoFrames(t *testing.T) {
	if most := batchRoom + maxMarks*markSize + markCount; most > stream.MaxPayload {
		t.Errorf("a batch can have %d bytes", most)
	}
}

// FuzzRounds applies any plan and any frame of pages. Only the images of the plan may appear, and no more than was paid for.
func FuzzRounds(f *testing.F) {
	mark := func(image uint32, address uint64, pages uint32) []byte {
		b := binary.BigEndian.AppendUint32(nil, image)
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, address), pages)
	}
	full := bytes.Repeat([]byte{7}, int(pageSize))
	good := slices.Concat(full, mark(5, 0x2000, 1), []byte{0, 0, 0, 1})
	f.Add([]byte(`{"image":5,"spans":[[4096,16384],[32768,36864]]}`), good)
	f.Add([]byte(`{"image":5,"spans":[[4096,8192],[8192,12288]]}`), slices.Concat(full, full, mark(5, 0x1000, 2), []byte{0, 0, 0, 1}))
	f.Add([]byte(`{"image":5,"spans":[[8192,4096]]}`), good)
	f.Add([]byte(`{"image":5,"spans":[[0,9223372036854775807]]}`), []byte{0, 0, 0, 0})
	f.Add([]byte(`{"image":6,"spans":[[0,4096]]}`), slices.Concat(mark(6, 0, 1), []byte{0, 0, 0, 1}))
	f.Fuzz(func(t *testing.T, doc, payload []byte) {
		path := t.TempDir()
		dir, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		r := &roundsReceiver{dir: dir, limits: Limits{MaxBytes: 1 << 30, MaxImages: 10, MaxEntries: 1000}, images: map[uint32]*roundImage{}}
		defer r.close()
		if err := r.plan(stream.Frame{Type: typePlan, Control: true, Payload: doc}); err == nil {
			err = r.apply(payload)
			if err != nil && !errors.Is(err, errProtocol) {
				t.Fatal(err)
			}
		}
		names, _ := filepath.Glob(filepath.Join(path, "page*.img"))
		all, _ := os.ReadDir(path)
		if len(all) != len(names) || len(all) > 2 {
			t.Fatalf("%v", all)
		}
		for _, m := range r.images {
			var st unix.Stat_t
			if err := unix.Fstat(m.file, &st); err != nil || st.Blocks*512 > int64(len(payload)+1<<21) {
				t.Fatalf("%d blocks of %d bytes, %v", st.Blocks, len(payload), err)
			}
		}
	})
}
