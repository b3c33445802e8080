package cgroup

import (
	"errors"
	"io/fs"
	"math"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// files reads a group's files. What is missing or not of the expected form is 0, as kernels differ in what they count; err is the first
// other error.
type files struct {
	dir string // with a slash at its end
	err error
}

func (f *files) text(name string) string {
	s, err := readFile(f.dir + name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EOPNOTSUPP) && f.err == nil {
		f.err = err
	}
	return s
}

// number reads a file with one number; "max" is the largest.
func (f *files) number(name string) uint64 { return number(f.text(name)) }

func number(s string) uint64 {
	if s == "max" {
		return math.MaxUint64
	}
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}

// keyed reads a file with lines of a name and a number; nil when it is missing.
func (f *files) keyed(name string) map[string]uint64 {
	text := f.text(name)
	if text == "" {
		return nil
	}
	out := make(map[string]uint64, 64)
	for line := range strings.SplitSeq(text, "\n") {
		if key, value, ok := strings.Cut(line, " "); ok {
			out[key] = number(value)
		}
	}
	return out
}

// list reads a file with a list of small numbers: 0-3,7.
func (f *files) list(name string) []uint16 {
	var out []uint16
	for part := range strings.SplitSeq(f.text(name), ",") {
		from, to, ok := strings.Cut(part, "-")
		first, err := strconv.ParseUint(from, 10, 16)
		last := first
		if err == nil && ok {
			last, err = strconv.ParseUint(to, 10, 16)
		}
		for n := first; err == nil && n <= last; n++ {
			out = append(out, uint16(n))
		}
	}
	return out
}

// numbers reads a file with numbers between spaces.
func (f *files) numbers(name string) []uint64 {
	var out []uint64
	for _, s := range strings.Fields(f.text(name)) {
		out = append(out, number(s))
	}
	return out
}

// pressure reads a file of pressure stall information; nil when the kernel has none.
func (f *files) pressure(name string) *Pressure {
	text := f.text(name)
	if text == "" {
		return nil
	}
	p := new(Pressure)
	for line := range strings.SplitSeq(text, "\n") {
		words := strings.Fields(line)
		var share *PressureShare
		switch {
		case len(words) == 0:
			continue
		case words[0] == "some":
			share = &p.Some
		case words[0] == "full":
			share = &p.Full
		default:
			continue
		}
		for _, word := range words[1:] {
			key, value, _ := strings.Cut(word, "=")
			average, _ := strconv.ParseFloat(value, 64)
			switch key {
			case "avg10":
				share.Avg10 = average
			case "avg60":
				share.Avg60 = average
			case "avg300":
				share.Avg300 = average
			case "total":
				share.Total = number(value)
			}
		}
	}
	return p
}

// pidsMetrics reads the pids controller, or counts processes where it is not at work.
func pidsMetrics(m *Metrics, dir string) error {
	f := &files{dir: dir}
	if current := f.text("pids.current"); current != "" {
		m.Pids = PidsMetrics{Current: number(current), Limit: f.number("pids.max")}
		if m.Pids.Limit == math.MaxUint64 {
			m.Pids.Limit = 0
		}
		return f.err
	}
	m.Pids.Current = uint64(len(parsePids(f.text("cgroup.procs"))))
	return f.err
}

// pageSizes lists the sizes of huge pages that a group's files know, as the kernel writes them: "2MB".
func pageSizes(dir, suffix string) []string {
	var out []string
	for _, name := range dirNames(dir) {
		size, ok := strings.CutPrefix(name, "hugetlb.")
		if size, isUsage := strings.CutSuffix(size, suffix); ok && isUsage && !strings.Contains(size, ".") {
			out = append(out, size)
		}
	}
	return out
}
