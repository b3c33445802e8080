package preflight

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/cgroup"
)

const (
	// longestSearch bounds the search for the names of watched files.
	longestSearch = 5 * time.Second
	deepest       = 200 // directories below each other
)

// watch is a file that an inotify or fanotify descriptor watches.
type watch struct {
	about  finding
	dev    uint64
	ino    uint64
	handle unix.FileHandle
}

// lookAtWatches notes what an inotify or fanotify descriptor watches.
func (s *scan) lookAtWatches(about finding) error {
	text, err := readAt(about.process.dir, "fdinfo/"+strconv.Itoa(about.fd))
	if err != nil {
		return err
	}
	about.code = BlockWatch
	for line := range strings.SplitSeq(text, "\n") {
		w, kind := parseWatch(line)
		switch kind {
		case watchesFile:
			w.about = about
			w.about.what = fmt.Sprintf("inode %d", w.ino)
			s.watches = append(s.watches, w)
		case watchesOther:
			f := about
			f.detail, f.hint = "CRIU can't save a watch on a whole file system", "run the program without it"
			s.add(f)
		}
	}
	return nil
}

// What a line of an inotify or fanotify fdinfo is about.
const (
	watchesNothing = iota
	watchesFile
	watchesOther
)

// parseWatch reads a line of the fdinfo of an inotify or fanotify descriptor (proc(5)).
func parseWatch(line string) (w watch, kind int) {
	words := strings.Fields(line)
	if len(words) < 2 || words[0] != "inotify" && words[0] != "fanotify" {
		return w, watchesNothing
	}
	values := map[string]string{}
	for _, word := range words[1:] {
		key, value, _ := strings.Cut(word, ":")
		values[key] = value
	}
	if values["flags"] != "" || values["mnt_id"] != "" {
		return w, watchesNothing // fanotify's own, or a mount of the pod
	}
	if values["ino"] == "" {
		return w, watchesOther
	}
	number := func(key string) uint64 { n, _ := strconv.ParseUint(values[key], 16, 64); return n }
	dev := number("sdev") // the kernel's own format
	w.dev, w.ino = unix.Mkdev(uint32(dev>>20), uint32(dev&0xfffff)), number("ino")
	if data, err := hex.DecodeString(values["f_handle"]); err == nil {
		data = data[:min(len(data), int(number("fhandle-bytes")))]
		w.handle = unix.NewFileHandle(int32(number("fhandle-type")), data)
	}
	return w, watchesFile
}

// judgeWatches reports the watches whose files have no name any more.
func (s *scan) judgeWatches() {
	lost := map[fileKey][]*watch{}
	for i := range s.watches {
		w := &s.watches[i]
		switch s.handleLeadsTo(w) {
		case leadsToName:
		case leadsToFile:
			f := w.about
			f.detail, f.hint = "the file that it watches has no name any more", "remove the watch"
			s.add(f)
		default:
			key := fileKey{w.dev, w.ino}
			lost[key] = append(lost[key], w)
		}
	}
	for key := range s.search(lost) {
		delete(lost, key)
	}
	for _, list := range lost {
		for _, w := range list {
			f := w.about
			f.detail, f.hint = "no path leads to the file that it watches"+s.fileSystem(w.dev), "remove the watch"
			s.add(f)
		}
	}
}

// fileSystem says where a device of the pod is mounted.
func (s *scan) fileSystem(dev uint64) string {
	for _, m := range s.mounts.sorted() {
		if m.dev == dev {
			return fmt.Sprintf(" on %s (%s)", m.target, m.fstype)
		}
	}
	return ""
}

// What a file handle leads to.
const (
	leadsNowhere = iota
	leadsToFile  // without a name in the pod
	leadsToName
)

// handleLeadsTo opens the watched file by its handle, as CRIU does.
func (s *scan) handleLeadsTo(w *watch) int {
	result := leadsNowhere
	for _, m := range s.mounts.sorted() {
		if m.dev != w.dev || w.handle.Size() == 0 || mayHang(m) {
			continue
		}
		dir, err := s.openInRoot(m.target, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			continue
		}
		fd, err := unix.OpenByHandleAt(dir, w.handle, unix.O_PATH|unix.O_CLOEXEC)
		unix.Close(dir)
		if err != nil {
			continue
		}
		result = max(result, leadsToFile)
		path, err := readlinkAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd))
		unix.Close(fd)
		if err == nil && s.isAt(path, w.ino) {
			return leadsToName
		}
	}
	return result
}

// isAt says whether the file of this number is at a path of the pod.
func (s *scan) isAt(path string, ino uint64) bool {
	fd, err := unix.Openat2(s.root, "./"+path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	f, err := statFD(fd)
	return err == nil && f.ino == ino
}

// search looks for the names of files and returns those found. File handles of an overlay without nfs_export lead nowhere,
// so that nothing else is left.
func (s *scan) search(wanted map[fileKey][]*watch) map[fileKey]string {
	found := map[fileKey]string{}
	if len(wanted) == 0 {
		return found
	}
	h := &hunt{wanted: wanted, found: found, until: time.Now().Add(longestSearch)}
	for _, m := range s.mounts.sorted() {
		if m.fstype == "proc" || mayHang(m) || s.mounts.isHidden(m) || !h.wants(m.dev) {
			continue
		}
		h.mount = m.id
		top, err := s.openInRoot(m.target, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			continue
		}
		h.try(top, ".", m.target)
		h.walk(top, ".", strings.TrimSuffix(m.target, "/"), 0)
		unix.Close(top)
	}
	return found
}

// mayHang says whether a program answers for the mount's file system, perhaps one in the pod itself.
func mayHang(m *mountPoint) bool { return strings.HasPrefix(m.fstype, "fuse") }

// hunt goes through a mount for files.
type hunt struct {
	wanted map[fileKey][]*watch
	found  map[fileKey]string
	mount  uint64
	until  time.Time
}

func (h *hunt) wants(dev uint64) bool {
	for key := range h.wanted {
		if key.dev == dev {
			return true
		}
	}
	return false
}

func (h *hunt) over() bool { return len(h.found) == len(h.wanted) || time.Now().After(h.until) }

// try looks whether an entry is one of the files, and says whether it is on the mount at all.
func (h *hunt) try(dir int, name, path string) (on bool) {
	var st unix.Statx_t
	const mask = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_MNT_ID
	if unix.Statx(dir, name, unix.AT_STATX_DONT_SYNC|unix.AT_SYMLINK_NOFOLLOW, mask, &st) != nil || st.Mnt_id != h.mount {
		return false
	}
	key := fileKey{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}
	if h.wanted[key] != nil && h.found[key] == "" {
		h.found[key] = path
	}
	return true
}

// walk goes through the directory name in dir, which is path in the pod.
func (h *hunt) walk(dir int, name, path string, depth int) {
	if depth > deepest || h.over() {
		return
	}
	fd, err := openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	var below []string
	_ = entries(fd, ".", func(e entry) {
		if h.try(fd, e.name, path+"/"+e.name) && e.kind == unix.DT_DIR {
			below = append(below, e.name)
		}
	})
	for _, name := range below {
		h.walk(fd, name, path+"/"+name, depth+1)
	}
}

// WatchPaths returns the paths, in the pod, of the files that the pod's inotify and fanotify descriptors watch and that CRIU
// does not find by itself, as on an overlay. They are for CRIU's option irmap_scan_paths at the dump. pid is the pod's first
// process, cg its cgroup. Nothing is searched in a pod without such watches; with them it takes as long as to list the
// pod's files.
func WatchPaths(pid int, cg *cgroup.Cgroup) ([]string, error) {
	pids, err := cg.Procs()
	if err != nil {
		return nil, fmt.Errorf("look for watched files: %w", err)
	}
	s, err := newScan(pid, pids, [3]string{}, nil)
	if err != nil {
		return nil, fmt.Errorf("look for watched files: %w", err)
	}
	defer s.close()
	for _, p := range s.procs {
		if err := s.collectWatches(p); err != nil && !gone(err) {
			return nil, fmt.Errorf("look for watched files: %s: %w", p, err)
		}
	}
	lost := map[fileKey][]*watch{}
	for i := range s.watches {
		if w := &s.watches[i]; s.handleLeadsTo(w) == leadsNowhere {
			lost[fileKey{w.dev, w.ino}] = append(lost[fileKey{w.dev, w.ino}], w)
		}
	}
	return scanOrder(slices.Collect(maps.Values(s.search(lost)))), nil
}

// scanOrder puts paths in the order that costs CRIU least: when it looks for a file it goes through everything below each
// path that comes before. The root it knows anyway.
func scanOrder(paths []string) []string {
	paths = slices.DeleteFunc(paths, func(p string) bool { return p == "/" })
	slices.SortFunc(paths, func(a, b string) int {
		return cmp.Or(cmp.Compare(strings.Count(b, "/"), strings.Count(a, "/")), cmp.Compare(a, b))
	})
	return paths
}

// collectWatches notes only what a process watches.
func (s *scan) collectWatches(p *process) error {
	fds, err := numbers(p.dir, "fd")
	if err != nil {
		return err
	}
	for _, fd := range fds {
		link, err := readlinkAt(p.dir, "fd/"+strconv.Itoa(fd))
		if err != nil || !strings.HasSuffix(link, "notify") && link != "anon_inode:[fanotify]" {
			continue
		}
		if err := s.lookAtWatches(finding{process: p, fd: fd}); err != nil {
			return err
		}
	}
	return nil
}
