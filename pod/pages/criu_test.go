package pages_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/zap-migrate/zap/pod/pages"
)

const (
	privateCRIU = "/usr/local/lib/zap/criu/sbin/criu"
	childDir    = "ZAP_PAGES_TEST_DIR" // makes the test binary the program that is moved
	childSize   = 64 << 20
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

// child is the program that is moved: it fills memory, says that it is ready, waits until it is told to look, and says what it found.
func child(dir string) {
	memory, err := syscall.Mmap(-1, 0, childSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		os.Exit(3)
	}
	shared, err := syscall.Mmap(-1, 0, childSize/16, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED|syscall.MAP_ANON)
	if err != nil {
		os.Exit(3)
	}
	fillPattern(memory, 1)
	fillPattern(shared, 2)
	os.WriteFile(filepath.Join(dir, "ready"), nil, 0o600)
	seed := uint64(1)
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "change")); err == nil && seed == 1 {
			seed = 7 // of the first quarter
			fillPattern(memory[:childSize/4], seed)
			os.WriteFile(filepath.Join(dir, "changed"), nil, 0o600)
		}
		if _, err := os.Stat(filepath.Join(dir, "look")); err == nil {
			found := "intact"
			if err := errors.Join(checkPattern(memory[:childSize/4], seed), checkRest(memory, childSize/4, 1), checkPattern(shared, 2)); err != nil {
				found = err.Error()
			}
			os.WriteFile(filepath.Join(dir, "found.new"), []byte(found), 0o600)
			os.Rename(filepath.Join(dir, "found.new"), filepath.Join(dir, "found"))
			os.Exit(0)
		}
	}
	os.Exit(4)
}

// word is what stands at an offset: nothing in every third 64 KiB and in single pages, else a value found nowhere else.
func word(offset int, seed uint64) uint64 {
	if offset>>16%3 == 1 || offset>>12%7 == 3 {
		return 0
	}
	return (uint64(offset) + seed<<40) * 0x9e3779b97f4a7c15
}

func fillPattern(b []byte, seed uint64) {
	for i := 0; i < len(b); i += 8 {
		if w := word(i, seed); w != 0 || i>>12%2 == 0 { // touch some of the zero pages
			binary.LittleEndian.PutUint64(b[i:], w)
		}
	}
}

func checkPattern(b []byte, seed uint64) error { return checkRest(b, 0, seed) }

// checkRest checks a pattern from an offset on.
func checkRest(b []byte, from int, seed uint64) error {
	for i := from; i < len(b); i += 8 {
		if got, want := binary.LittleEndian.Uint64(b[i:]), word(i, seed); got != want {
			return fmt.Errorf("memory %d: %#x at %#x, should be %#x", seed, got, i, want)
		}
	}
	return nil
}

func findCRIU(tb testing.TB) string {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: criu dumps and restores a process")
	}
	if _, err := os.Stat(privateCRIU); err == nil {
		return privateCRIU
	}
	path, err := exec.LookPath("criu")
	if err != nil {
		tb.Skip("needs criu")
	}
	return path
}

// startChild starts the program to be moved, through a program that executes it if there is one, and waits until it is ready.
func startChild(t *testing.T, dir string, through ...string) *exec.Cmd {
	t.Helper()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := append(through, own)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), childDir + "=" + dir, "GODEBUG=multipathtcp=0"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan struct{})
	go func() { cmd.Wait(); close(waited) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-waited })
	waitFor(t, filepath.Join(dir, "ready"))
	return cmd
}

func waitFor(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
	t.Fatalf("%s does not appear", path)
}

// tmpfsDir returns a directory on tmpfs.
func tmpfsDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "zap-pages-")
	if err != nil {
		tb.Skipf("needs a tmpfs at /dev/shm: %v", err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// dump runs criu dump with sender as its page server and returns CRIU's own result.
func dump(ctx context.Context, criu string, pid int, images string, sender *pages.Sender, flags ...string) error {
	cmd := exec.CommandContext(ctx, criu, append(flags, "dump", "-t", strconv.Itoa(pid), "-D", images, "-o", "dump.log", "-v2", "--page-server", "--ps-socket", "3")...)
	cmd.ExtraFiles = []*os.File{sender.File()}
	if err := cmd.Start(); err != nil {
		return err
	}
	sender.File().Close()
	if err := cmd.Wait(); err != nil {
		log, _ := os.ReadFile(filepath.Join(images, "dump.log"))
		return fmt.Errorf("criu dump: %w\n%s", err, log)
	}
	return nil
}

// restoreAndLook restores the program from images, has it look at its memory, and wants that to be what it was.
func restoreAndLook(t *testing.T, ctx context.Context, criu, images, work string) {
	t.Helper()
	restore := exec.CommandContext(ctx, criu, "restore", "-D", images, "-o", "restore.log", "-v2")
	if err := restore.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "look"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := restore.Wait(); err != nil {
		log, _ := os.ReadFile(filepath.Join(images, "restore.log"))
		t.Fatalf("criu restore: %v\n%s", err, log)
	}
	if found, err := os.ReadFile(filepath.Join(work, "found")); err != nil || string(found) != "intact" {
		t.Errorf("restored program found its memory %q, %v", found, err)
	}
}

func TestMoveMemoryOfARealProcess(t *testing.T) {
	criu := findCRIU(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	work, images := t.TempDir(), tmpfsDir(t)
	process := startChild(t, work)
	source, target := connPair(t)

	sender, err := pages.NewSender()
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	dir, err := os.Open(images)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	type result struct {
		stats pages.Stats
		err   error
	}
	sent, received := make(chan result, 1), make(chan result, 1)
	go func() { s, err := sender.Run(ctx, source); sent <- result{s, err} }()
	go func() { s, err := pages.Receive(ctx, target, dir, pages.Limits{}); received <- result{s, err} }()

	if err := dump(ctx, criu, process.Process.Pid, images, sender); err != nil {
		t.Error(err)
	}
	s, r := <-sent, <-received
	if s.err != nil || r.err != nil {
		t.Fatalf("send: %v; receive: %v", s.err, r.err)
	}
	if s.stats != r.stats || s.stats.Images < 2 || s.stats.ZeroPages == 0 {
		t.Errorf("sent %+v, received %+v", s.stats, r.stats)
	}

	restoreAndLook(t, ctx, criu, images, work)
}

// TestFailedMoveLeavesTheProcessRunning dumps into a tmpfs that is too small: the dump fails, and the program runs on with its memory.
func TestFailedMoveLeavesTheProcessRunning(t *testing.T) {
	criu := findCRIU(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	work := t.TempDir()
	process := startChild(t, work)
	source, target := connPair(t)
	sender, err := pages.NewSender()
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	dir, err := os.Open(smallTmpfs(t, "8m"))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	sent, received := make(chan error, 1), make(chan error, 1)
	go func() { _, err := sender.Run(ctx, source); sent <- err }()
	go func() { _, err := pages.Receive(ctx, target, dir, pages.Limits{}); received <- err }()
	if err := dump(ctx, criu, process.Process.Pid, t.TempDir(), sender); err == nil {
		t.Error("the dump succeeded")
	}
	if err := <-sent; err == nil {
		t.Error("the sender succeeded")
	}
	if err := <-received; !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("receiver: %v", err)
	}
	if err := os.WriteFile(filepath.Join(work, "look"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	waitFor(t, filepath.Join(work, "found"))
	if found, err := os.ReadFile(filepath.Join(work, "found")); err != nil || string(found) != "intact" {
		t.Errorf("the program found its memory %q, %v", found, err)
	}
}
