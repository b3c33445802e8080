package runtime

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/criu"
)

// inodeKey is an inode as fdinfo of an inotify descriptor names it (proc(5)).
type inodeKey struct {
	dev uint32 // the kernel's form
	ino uint64
}

// WatchedInodes finds the names of the inodes that the processes watch with
// inotify, for criu.WriteInodes. It walks the root file system of the process init
// only if something is watched, and stops when all are found.
func WatchedInodes(init int, pids []int) []criu.Inode {
	wanted := map[inodeKey]bool{}
	for _, pid := range pids {
		addWatches(wanted, pid)
	}
	var found []criu.Inode
	root := fmt.Sprintf("/proc/%d/root", init)
	if len(wanted) == 0 {
		return nil
	}
	// What can't be read is left out: CRIU will say that it does not find it.
	_ = filepath.WalkDir(root+"/", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return nil
		}
		name := "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		key := inodeKey{dev: kernelDev(st.Dev), ino: st.Ino}
		if wanted[key] {
			found = append(found, criu.Inode{Dev: key.dev, Ino: key.ino, Path: name})
			delete(wanted, key)
		}
		if len(wanted) == 0 {
			return fs.SkipAll
		}
		if d.IsDir() && (name == "/proc" || name == "/sys") {
			return fs.SkipDir
		}
		return nil
	})
	return found
}

// kernelDev turns a device number of stat(2) into the kernel's form.
func kernelDev(dev uint64) uint32 { return unix.Major(dev)<<20 | unix.Minor(dev) }

func addWatches(wanted map[inodeKey]bool, pid int) {
	dir := fmt.Sprintf("/proc/%d", pid)
	names, err := os.ReadDir(dir + "/fd")
	if err != nil {
		return // it has ended
	}
	for _, n := range names {
		if target, err := os.Readlink(filepath.Join(dir, "fd", n.Name())); err != nil || target != "anon_inode:inotify" {
			continue
		}
		info, err := os.ReadFile(filepath.Join(dir, "fdinfo", n.Name()))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(info)) {
			if key, ok := parseWatchLine(line); ok {
				wanted[key] = true
			}
		}
	}
}

// parseWatchLine reads "inotify wd:1 ino:9e7e sdev:800013 mask:800afce ...".
func parseWatchLine(line string) (key inodeKey, ok bool) {
	fields := strings.Fields(line)
	if len(fields) == 0 || fields[0] != "inotify" {
		return key, false
	}
	seen := 0
	for _, f := range fields[1:] {
		name, value, _ := strings.Cut(f, ":")
		n, err := strconv.ParseUint(value, 16, 64)
		switch {
		case err != nil:
		case name == "ino":
			key.ino = n
			seen++
		case name == "sdev":
			key.dev = uint32(n)
			seen++
		}
	}
	return key, seen == 2
}
