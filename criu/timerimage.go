package criu

import (
	"encoding/binary"
	"fmt"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of images of timerfds (images/timerfd.proto in CRIU).
const (
	fieldFileTimer     = 12 // file_entry.tfd
	fieldTimerTicks    = 5
	fieldTimerSeconds  = 7
	fieldTimerNano     = 8
	fieldTimerInterval = 9 // seconds; nanoseconds follow
)

// RearmTimers changes the images of a dump, in dir, so that periodic timerfds
// that have ticked and were not read go on ticking. The kernel starts such a timer
// again only when it is read, so CRIU finds no time left on it, and restores it
// disarmed for good. Its next tick comes one interval after the restore.
func RearmTimers(dir string) error {
	return changeImage(filepath.Join(dir, filesImageName), func(data []byte) ([]byte, error) {
		if len(data) < 8 || binary.LittleEndian.Uint32(data[4:]) != filesMagic {
			return nil, errFileImage
		}
		return mapEntries(data, errFileImage, func(entry []byte) ([]byte, error) {
			return mapField(entry, fieldFileTimer, rearm)
		})
	})
}

// rearm gives a timerfd_entry that has ticked and has no time left its interval.
func rearm(entry []byte) ([]byte, error) {
	values := map[protowire.Number]uint64{}
	for rest := entry; len(rest) > 0; {
		number, typ, tag := protowire.ConsumeTag(rest)
		if tag < 0 {
			return nil, fmt.Errorf("%w: %w", errFileImage, protowire.ParseError(tag))
		}
		n := protowire.ConsumeFieldValue(number, typ, rest[tag:])
		if n < 0 {
			return nil, fmt.Errorf("%w: %w", errFileImage, protowire.ParseError(n))
		}
		if typ == protowire.VarintType {
			values[number], _ = protowire.ConsumeVarint(rest[tag:])
		}
		rest = rest[tag+n:]
	}
	left := values[fieldTimerSeconds] + values[fieldTimerNano]
	if values[fieldTimerTicks] == 0 || left != 0 {
		return entry, nil
	}
	entry = appendVarint(entry, fieldTimerSeconds, values[fieldTimerInterval])
	return appendVarint(entry, fieldTimerNano, values[fieldTimerInterval+1]), nil
}

// appendVarint adds a field again: of two, a reader takes the last.
func appendVarint(message []byte, number protowire.Number, value uint64) []byte {
	message = protowire.AppendTag(message[:len(message):len(message)], number, protowire.VarintType)
	return protowire.AppendVarint(message, value)
}
