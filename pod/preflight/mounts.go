package preflight

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountPoint is a mount of the pod.
type mountPoint struct {
	id, parent uint64
	dev        uint64
	target     string // in the pod
	fstype     string
	hidden     *bool // whether another mount is above it, once known
}

// mountTable are the pod's mounts by their numbers.
type mountTable map[uint64]*mountPoint

// readMounts reads the mounts of the process whose /proc directory is given.
func readMounts(process int) (mountTable, error) {
	text, err := readAt(process, "mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(text)
}

// parseMounts reads a mountinfo file (proc(5)).
func parseMounts(text string) (mountTable, error) {
	table := mountTable{}
	for line := range strings.Lines(text) {
		before, after, found := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !found || len(left) < 6 || len(right) < 2 {
			return nil, fmt.Errorf("line %q is no mount", line)
		}
		id, err1 := strconv.ParseUint(left[0], 10, 64)
		parent, err2 := strconv.ParseUint(left[1], 10, 64)
		major, minor, _ := strings.Cut(left[2], ":")
		x, err3 := strconv.ParseUint(major, 10, 32)
		y, err4 := strconv.ParseUint(minor, 10, 32)
		if err1 != nil || err2 != nil || err3 != nil || err4 != nil {
			return nil, fmt.Errorf("line %q is no mount", line)
		}
		table[id] = &mountPoint{
			id: id, parent: parent, dev: unix.Mkdev(uint32(x), uint32(y)), target: unescape(left[4]), fstype: right[0],
		}
	}
	return table, nil
}

// unescape undoes the octal escapes of /proc's mount tables.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// isHidden says whether another mount covers m, so that paths on m lead elsewhere. CRIU does not save files open there.
func (t mountTable) isHidden(m *mountPoint) bool {
	if m.hidden == nil {
		hidden := t.covered(m)
		m.hidden = &hidden
	}
	return *m.hidden
}

func (t mountTable) covered(m *mountPoint) bool {
	for _, other := range t {
		if other.parent == m.id && other != m && other.target == m.target {
			return true
		}
	}
	for range len(t) { // up to the root
		parent := t[m.parent]
		if parent == nil || parent == m {
			return false
		}
		for _, other := range t {
			if other != m && other.parent == m.parent && below(m.target, other.target) {
				return true
			}
		}
		m = parent
	}
	return false
}

// below says whether path is top or in it.
func below(path, top string) bool {
	return path == top || top == "/" || strings.HasPrefix(path, top+"/")
}

// isVolume says whether m is a bind mount that the host has, too.
func (s *scan) isVolume(m *mountPoint) bool {
	for _, b := range s.plan.Binds {
		if b.Target == m.target {
			return true
		}
	}
	return false
}

// openInRoot opens a path of the pod.
func (s *scan) openInRoot(path string, flags int) (int, error) {
	return unix.Openat2(s.root, strings.TrimPrefix(path, "/")+"/.", &unix.OpenHow{
		Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// lookAtQueues reports what of POSIX message queues can't be carried: the wish of a process to be told of a message (mq_notify(3)).
func (s *scan) lookAtQueues() {
	seen := map[uint64]bool{}
	for _, m := range s.mounts.sorted() {
		if m.fstype != "mqueue" || seen[m.dev] || s.mounts.isHidden(m) {
			continue
		}
		seen[m.dev] = true
		dir, err := s.openInRoot(m.target, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			continue
		}
		_ = entries(dir, ".", func(e entry) {
			text, err := readAt(dir, e.name)
			if err != nil || !strings.Contains(text, "NOTIFY_PID:") || strings.Contains(text, "NOTIFY_PID:0") {
				return
			}
			s.add(finding{
				code: BlockQueue, fd: -1, what: m.target + "/" + e.name, detail: "a process waits to be notified of a message (mq_notify)",
				hint: "let the program wait in mq_receive or poll",
			})
		})
		unix.Close(dir)
	}
}

// sorted returns the mounts by number.
func (t mountTable) sorted() []*mountPoint {
	list := make([]*mountPoint, 0, len(t))
	for _, m := range t {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b *mountPoint) int { return int(a.id) - int(b.id) })
	return list
}

// memoryDevice returns the device number of the kernel's own tmpfs.
func memoryDevice() (uint64, error) {
	fd, err := unix.MemfdCreate("zap-preflight", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("make memfd: %w", err)
	}
	defer unix.Close(fd)
	f, err := statFD(fd)
	if err != nil {
		return 0, fmt.Errorf("stat memfd: %w", err)
	}
	return f.dev, nil
}

// statFD is statAt for a descriptor of this process.
func statFD(fd int) (file, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return file{}, err
	}
	return file{mode: st.Mode, dev: st.Dev, ino: st.Ino, links: uint32(st.Nlink)}, nil
}
