package preflight

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mapped is what was found out about a mapped file.
type mapped struct{ code, detail, hint string }

// mapping is a line of /proc/PID/maps.
type mapping struct {
	start, end uint64
	dev, ino   uint64
	name       string
}

// lookAtMemory looks at the mappings of a process. Each file is looked at once for the whole pod.
func (s *scan) lookAtMemory(p *process) error {
	text, err := readAt(p.dir, "maps")
	if err != nil {
		return err
	}
	for line := range strings.Lines(text) {
		m, ok := parseMapping(line)
		if !ok {
			continue
		}
		about := finding{code: BlockMapping, process: p, fd: -1, what: m.name}
		if m.name == "[uprobes]" {
			about.detail, about.hint = "a uprobe is set in the program", "remove the probes of perf, bpftrace and the like"
			s.add(about)
			continue
		}
		if m.ino == 0 && !strings.HasPrefix(m.name, "/") && !strings.Contains(m.name, ":") {
			continue // anonymous memory, [heap], [stack] and so on
		}
		key := fileKey{m.dev, m.ino}
		if m.ino == 0 || strings.Contains(m.name, ":") { // anonymous inodes have one number together
			key = fileKey{^uint64(0), uint64(len(s.mapped))}
		}
		known := s.mapped[key]
		if known == nil {
			if known, err = s.examineMapping(p, m); err != nil {
				continue // it was unmapped
			}
			s.mapped[key] = known
		}
		if known.code != "" {
			about.code, about.detail, about.hint = known.code, known.detail, known.hint
			s.add(about)
		}
	}
	return nil
}

// parseMapping reads a line of /proc/PID/maps (proc(5)), and says whether there is a name in it.
func parseMapping(line string) (m mapping, named bool) {
	// address perms offset dev inode, then spaces and the name
	rest := strings.TrimSuffix(line, "\n")
	var fields [5]string
	for i := range fields {
		fields[i], rest, _ = strings.Cut(rest, " ")
	}
	m.name = strings.TrimLeft(rest, " ")
	if m.name == "" {
		return m, false
	}
	start, end, _ := strings.Cut(fields[0], "-")
	major, minor, _ := strings.Cut(fields[3], ":")
	x, _ := strconv.ParseUint(major, 16, 32)
	y, _ := strconv.ParseUint(minor, 16, 32)
	m.start, _ = strconv.ParseUint(start, 16, 64)
	m.end, _ = strconv.ParseUint(end, 16, 64)
	m.ino, _ = strconv.ParseUint(fields[4], 10, 64)
	m.dev = unix.Mkdev(uint32(x), uint32(y))
	return m, true
}

// examineMapping finds out what is mapped.
func (s *scan) examineMapping(p *process, m mapping) (*mapped, error) {
	f, err := statAt(p.dir, fmt.Sprintf("map_files/%x-%x", m.start, m.end))
	if err != nil {
		return nil, err
	}
	special := func(prefixes ...string) bool {
		for _, prefix := range prefixes {
			if strings.HasPrefix(m.name, prefix) {
				return true
			}
		}
		return false
	}
	switch kind := f.kind(); {
	case special("/secretmem"):
		return &mapped{BlockSecretMem, "CRIU can't save secret memory (memfd_secret)", "run the program without it"}, nil
	case special("/[aio]"):
		return &mapped{}, nil
	case special("anon_inode:"):
		var o scan
		o.judgeObject(finding{}, strings.TrimPrefix(m.name, "anon_inode:"))
		if len(o.found) > 0 {
			return &mapped{o.found[0].code, o.found[0].detail, o.found[0].hint}, nil
		}
	case special("/SYSV") && f.dev == s.memory:
		if own, err := os.Readlink("/proc/self/ns/ipc"); err == nil && own == s.init.namespaces["ipc"] {
			return &mapped{
				BlockMapping, "System V shared memory of the host can't be moved with a pod", "give the pod an IPC namespace of its own",
			}, nil
		}
		return &mapped{}, nil
	case kind == unix.S_IFSOCK, kind == unix.S_IFCHR && f.rdev == [2]uint32{majorMemory, minorZero}:
		return &mapped{}, nil
	case kind != unix.S_IFREG:
		return &mapped{
			BlockMapping, fmt.Sprintf("CRIU can't save the memory of this device (%d:%d)", f.rdev[0], f.rdev[1]), hintDevice,
		}, nil
	case f.dev == s.memory, special("/anon_hugepage", "/memfd:", "/SYSV"): // the second with huge pages
		return &mapped{}, nil
	}
	var o scan
	o.mounts = s.mounts
	o.judgeFile(finding{what: "mapped"}, &f, func() string { return m.name })
	if len(o.found) > 0 {
		return &mapped{o.found[0].code, o.found[0].detail, o.found[0].hint}, nil
	}
	return &mapped{}, nil
}

// minorZero is /dev/zero's.
const minorZero = 5
