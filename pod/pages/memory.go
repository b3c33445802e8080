package pages

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// span is a piece of an address space, from its first byte to the one after its last.
type span struct{ from, to uint64 }

func (s span) pages() uint64 { return (s.to - s.from) / pageSize }

// Bits of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
const (
	pagemapEntry     = 8
	pagemapFrame     = 1<<55 - 1 // the frame's number, or the place in the swap
	pagemapSoftDirty = 1 << 55
	pagemapFile      = 1 << 61 // of a file, or shared
	pagemapSwapped   = 1 << 62
	pagemapPresent   = 1 << 63

	pagemapChunk = 8192 // entries read at a time
)

// memory is the private memory of a process, as far as it can be read while the process runs.
type memory struct {
	pid     int
	pagemap *os.File
	chunk   []byte
	clean   int64 // the process's own pages that were passed over
}

func openMemory(pid int, chunk []byte) (*memory, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, err
	}
	return &memory{pid: pid, pagemap: f, chunk: chunk}, nil
}

func (m *memory) close() { _ = m.pagemap.Close() }

// spans lists the private mappings that can be read, adjacent ones as one.
func (m *memory) spans() ([]span, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", m.pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []span
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		s, ok := parseMapping(lines.Text())
		if !ok {
			continue
		}
		if k := len(all); k > 0 && all[k-1].to == s.from {
			all[k-1].to = s.to
			continue
		}
		all = append(all, s)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read mappings of process %d: %w", m.pid, err)
	}
	return all, nil
}

// parseMapping takes a line of /proc/PID/maps if it is of memory that a dump would contain.
func parseMapping(line string) (span, bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 || len(fields[1]) != 4 || fields[1][0] != 'r' || fields[1][3] != 'p' {
		return span{}, false
	}
	if len(fields) > 5 && slices.Contains([]string{"[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"}, fields[5]) {
		return span{}, false
	}
	low, high, _ := strings.Cut(fields[0], "-")
	from, err1 := strconv.ParseUint(low, 16, 64)
	to, err2 := strconv.ParseUint(high, 16, 64)
	return span{from, to}, err1 == nil && err2 == nil && from < to && to < 1<<63
}

// private calls found with each run of pages in s that are the process's own, present or swapped and of no file, as far as keep wants them by their addresses and
// entries of the page map.
func (m *memory) private(s span, keep func(address, entry uint64) bool, found func(span) error) error {
	var open span
	for at := s.from; at < s.to; {
		n := min((s.to-at)/pageSize, pagemapChunk)
		got, err := m.pagemap.ReadAt(m.chunk[:n*pagemapEntry], int64(at/pageSize*pagemapEntry))
		if got < pagemapEntry {
			if err == nil || got == 0 { // the process has ended, or the mapping is beyond what the kernel shows
				break
			}
			return fmt.Errorf("read page map of process %d: %w", m.pid, err)
		}
		for i := 0; i+pagemapEntry <= got; i += pagemapEntry {
			e := binary.LittleEndian.Uint64(m.chunk[i:])
			own := e&(pagemapPresent|pagemapSwapped) != 0 && e&pagemapFile == 0
			switch {
			case own && !keep(at, e):
				m.clean++
			case own && open.to == at:
				open.to += pageSize
			case own:
				if open.to > open.from {
					if err := found(open); err != nil {
						return err
					}
				}
				open = span{at, at + pageSize}
			}
			at += pageSize
		}
	}
	if open.to > open.from {
		return found(open)
	}
	return nil
}

// forget has the kernel track from now on what a process writes to (soft-dirty bits, proc_pid_clear_refs(5)).
func forget(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("4"), 0)
}

// readMemory copies the memory of the spans into b, one after the other, and returns how much it got: less when a page went away meanwhile.
func readMemory(pid int, b []byte, spans []unix.RemoteIovec) (int, error) {
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(len(b))
	for {
		n, err := unix.ProcessVMReadv(pid, local, spans, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EFAULT):
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("read memory of process %d: %w", pid, err)
		}
		return n / int(pageSize) * int(pageSize), nil
	}
}
