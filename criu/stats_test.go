package criu

import (
	"encoding/binary"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/stats"
	"google.golang.org/protobuf/proto"
)

// statsImage builds a statistics image as CRIU writes it.
func statsImage(t testing.TB, e *stats.StatsEntry) []byte {
	t.Helper()
	payload, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	b := binary.LittleEndian.AppendUint32(nil, stats.ImgServiceMagic)
	b = binary.LittleEndian.AppendUint32(b, stats.StatsMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

func restoreStats(pages uint64) *stats.StatsEntry {
	return &stats.StatsEntry{Restore: &stats.RestoreStatsEntry{
		PagesCompared: proto.Uint64(1), PagesSkippedCow: proto.Uint64(2), PagesRestored: proto.Uint64(pages),
		ForkingTime: proto.Uint32(3), RestoreTime: proto.Uint32(4),
	}}
}

func TestParseStats(t *testing.T) {
	image := statsImage(t, restoreStats(77))
	e, err := parseStats(image)
	if err != nil || e.GetRestore().GetPagesRestored() != 77 {
		t.Errorf("parsed %v, %v, want 77 pages", e, err)
	}
	for n := range image {
		if _, err := parseStats(image[:n]); err == nil {
			t.Errorf("the first %d of %d bytes were accepted", n, len(image))
		}
	}
	image[0]++
	if _, err := parseStats(image); err == nil {
		t.Error("a wrong magic number was accepted")
	}
}

func FuzzParseStats(f *testing.F) {
	f.Add(statsImage(f, restoreStats(1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, err := parseStats(data); err == nil && e == nil {
			t.Error("neither an entry nor an error")
		}
	})
}
