package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/stats"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// maxStats bounds a statistics image; CRIU writes less than 200 bytes.
const maxStats = 64 << 10

// DumpStats are CRIU's own figures of a dump.
type DumpStats struct {
	Freezing     time.Duration // until the whole tree was stopped
	Frozen       time.Duration // from then until it was let go or killed; PostDump is part of it
	MemoryDump   time.Duration // reading memory into pipes
	MemoryWrite  time.Duration // writing it to the images or the page socket
	PagesScanned uint64        // private pages looked at
	PagesWritten uint64        // private pages written
	PagesSkipped uint64        // private pages that the parent image has
	SharedPages  uint64        // pages of shared memory written
}

// RestoreStats are CRIU's own figures of a restore.
type RestoreStats struct {
	Forking       time.Duration // making the processes
	Restoring     time.Duration // everything up to the tree being ready to run; PostRestore is part of it
	PagesRestored uint64
	PagesCompared uint64 // with a parent process's, for copy on write
	PagesShared   uint64 // of these, left shared
}

// ReadDumpStats reads the figures that a dump left in its work directory. They
// are there when [Session.Dump] has returned without an error.
func ReadDumpStats(work *os.File) (*DumpStats, error) {
	e, err := readStats(work, stats.StatsDump)
	if err != nil {
		return nil, err
	}
	d := e.GetDump()
	return &DumpStats{
		Freezing: micros(d.GetFreezingTime()), Frozen: micros(d.GetFrozenTime()),
		MemoryDump: micros(d.GetMemdumpTime()), MemoryWrite: micros(d.GetMemwriteTime()),
		PagesScanned: d.GetPagesScanned(), PagesWritten: d.GetPagesWritten(),
		PagesSkipped: d.GetPagesSkippedParent(), SharedPages: d.GetShpagesWritten(),
	}, nil
}

// ReadRestoreStats reads the figures that a restore left in its work
// directory. They are there from the callback PostResume on.
func ReadRestoreStats(work *os.File) (*RestoreStats, error) {
	e, err := readStats(work, stats.StatsRestore)
	if err != nil {
		return nil, err
	}
	r := e.GetRestore()
	return &RestoreStats{
		Forking: micros(r.GetForkingTime()), Restoring: micros(r.GetRestoreTime()),
		PagesRestored: r.GetPagesRestored(), PagesCompared: r.GetPagesCompared(), PagesShared: r.GetPagesSkippedCow(),
	}, nil
}

func micros(n uint32) time.Duration { return time.Duration(n) * time.Microsecond }

func readStats(dir *os.File, name string) (*stats.StatsEntry, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxStats))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	e, err := parseStats(data)
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", name, err)
	}
	return e, nil
}

// parseStats decodes a statistics image: two magic numbers, the payload's size
// and the payload, little-endian.
func parseStats(data []byte) (*stats.StatsEntry, error) {
	if len(data) < stats.PayloadOffset {
		return nil, io.ErrUnexpectedEOF
	}
	if binary.LittleEndian.Uint32(data) != stats.ImgServiceMagic ||
		binary.LittleEndian.Uint32(data[stats.SecondaryMagicOffset:]) != stats.StatsMagic {
		return nil, errors.New("not a statistics image")
	}
	size := binary.LittleEndian.Uint32(data[stats.SizeOffset:])
	if uint64(size) > uint64(len(data)-stats.PayloadOffset) {
		return nil, io.ErrUnexpectedEOF
	}
	e := new(stats.StatsEntry)
	return e, proto.Unmarshal(data[stats.PayloadOffset:stats.PayloadOffset+int(size)], e)
}
