package preflight

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime"
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
	w.dev, w.ino = kernelDevice(number("sdev")), number("ino")
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

// search returns those of the files whose names zap finds and tells CRIU. File handles of an overlay without nfs_export lead
// nowhere, so that nothing else is left.
func (s *scan) search(wanted map[fileKey][]*watch) map[fileKey]bool {
	if len(wanted) == 0 {
		return nil
	}
	var pids []int
	for _, p := range s.procs {
		pids = append(pids, p.pid)
	}
	found := map[fileKey]bool{}
	for _, i := range runtime.WatchedInodes(s.init.pid, pids) {
		found[fileKey{kernelDevice(uint64(i.Dev)), i.Ino}] = true
	}
	return found
}

// kernelDevice turns a device number from the kernel's own form, as fdinfo has it, into that of stat(2).
func kernelDevice(dev uint64) uint64 { return unix.Mkdev(uint32(dev>>20), uint32(dev&0xfffff)) }

// mayHang says whether a program answers for the mount's file system, perhaps one in the pod itself.
func mayHang(m *mountPoint) bool { return strings.HasPrefix(m.fstype, "fuse") }
