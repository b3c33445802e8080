package pod

import (
	"os"
	"os/signal"
	"testing"

	"golang.org/x/sys/unix"
)

// limitFiles runs f while no file of this process can grow beyond size bytes.
func limitFiles(t *testing.T, size uint64, f func()) {
	t.Helper()
	exceeded := make(chan os.Signal, 1)
	signal.Notify(exceeded, unix.SIGXFSZ)
	defer signal.Stop(exceeded)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}
