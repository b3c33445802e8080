package fulldisk

import (
	"os"
	"os/signal"
	"testing"

	"golang.org/x/sys/unix"
)

// Run runs f while no file of this process can grow beyond size bytes: a write then fails with EFBIG, after what fits, as one to a full disk
// does with ENOSPC (setrlimit(2), RLIMIT_FSIZE). Tests that use it do not run in parallel with others of the process.
func Run(t *testing.T, size uint64, f func()) {
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
