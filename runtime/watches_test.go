package runtime

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseWatchLine(t *testing.T) {
	key, ok := parseWatchLine("inotify wd:1 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d\n")
	if !ok || key != (inodeKey{dev: 0x800013, ino: 0x9e7e}) {
		t.Errorf("got %+v, %v", key, ok)
	}
	for _, line := range []string{"", "pos:\t0", "inotify wd:1 ino:zz sdev:1", "inotify wd:1 ino:1"} {
		if _, ok := parseWatchLine(line); ok {
			t.Errorf("%q was taken for a watch", line)
		}
	}
}

func TestWatchedInodes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: looks through /proc/PID/root")
	}
	file := filepath.Join(t.TempDir(), "watched")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, file, unix.IN_MODIFY); err != nil {
		t.Fatal(err)
	}
	wanted := map[inodeKey]bool{}
	addWatches(wanted, os.Getpid())
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	if !wanted[inodeKey{dev: kernelDev(st.Dev), ino: st.Ino}] {
		t.Errorf("the watch on %s (device %#x inode %d) was not seen: %v", file, st.Dev, st.Ino, wanted)
	}
}
