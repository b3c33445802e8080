package stream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: makes devices, owners and trusted attributes")
	}
}

// transfer sends a change of src to dst.
func transfer(tb testing.TB, src, dst string, change Change) Stats {
	tb.Helper()
	x, y := pair(tb)
	defer x.Close()
	defer y.Close()
	type result struct {
		stats Stats
		err   error
	}
	sent := make(chan result, 1)
	go func() {
		stats, err := Send(context.Background(), x, src, change)
		sent <- result{stats, err}
	}()
	got, err := Receive(context.Background(), y, dst, Limits{})
	s := <-sent
	if err != nil || s.err != nil {
		tb.Fatalf("send: %v; receive: %v", s.err, err)
	}
	got.Skipped = s.stats.Skipped
	if got != s.stats {
		tb.Errorf("sent %+v, received %+v", s.stats, got)
	}
	return s.stats
}

func scan(tb testing.TB, root string) *Index {
	tb.Helper()
	x, err := Scan(root)
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

// describe says of every name below root what must survive a transfer, in a way that shares no code with it.
func describe(tb testing.TB, root string) map[string]string {
	tb.Helper()
	all, names := map[string]string{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		line := fmt.Sprintf("%o %d:%d %d.%09d dev %d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Rdev)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if first, ok := names[st.Ino]; ok {
				line += " is " + first
			} else if names[st.Ino] = rel; st.Nlink > 1 {
				line += fmt.Sprint(" links ", st.Nlink)
			}
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" size %d sum %x", st.Size, sha256.Sum256(content))
		case unix.S_IFLNK:
			to, _ := os.Readlink(path)
			line += " -> " + to
		}
		all[rel] = line + attributesOf(tb, path)
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

func attributesOf(tb testing.TB, path string) string {
	tb.Helper()
	list := make([]byte, 4096)
	n, err := unix.Llistxattr(path, list)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		tb.Fatal(err)
	}
	var out []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:max(n, 0)]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			tb.Fatal(path, name, err)
		}
		out = append(out, fmt.Sprintf(" %s=%x", name, value[:n]))
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// equal fails the test where two trees differ.
func equal(tb testing.TB, src, dst string) {
	tb.Helper()
	want, got := describe(tb, src), describe(tb, dst)
	for path, w := range want {
		if g, ok := got[path]; !ok {
			tb.Errorf("%s is missing", path)
		} else if g != w {
			tb.Errorf("%s:\n got %s\nwant %s", path, g, w)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			tb.Errorf("%s should not be there", path)
		}
	}
}

// check ends a test at the first error of a list.
func check(tb testing.TB, errs ...error) {
	tb.Helper()
	for i, err := range errs {
		if err != nil {
			tb.Fatalf("step %d: %v", i, err)
		}
	}
}

func touch(path string, sec, nsec int64) error {
	ts := []unix.Timespec{{Sec: sec, Nsec: nsec}, {Sec: sec, Nsec: nsec}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
}

// everything makes a tree with one of each kind.
func everything(tb testing.TB, root string) {
	tb.Helper()
	at := func(name string) string { return filepath.Join(root, name) }
	write := func(name, content string, mode os.FileMode) error {
		return errors.Join(os.WriteFile(at(name), []byte(content), 0o600), os.Chmod(at(name), mode))
	}
	capability := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	acl := []byte{
		2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 6, 0, 42, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255, 16, 0, 7, 0, 255, 255, 255, 255,
		32, 0, 0, 0, 255, 255, 255, 255,
	}
	check(tb,
		os.Mkdir(at("empty"), 0o755), os.Mkdir(at("closed"), 0o700), os.Chmod(at("closed"), 0),
		os.MkdirAll(at("a/b/c"), 0o755), os.Chmod(at("a/b"), os.ModeSticky|0o777),
		os.Mkdir(at("grouped"), 0o755), os.Chown(at("grouped"), 0, 77), os.Chmod(at("grouped"), os.ModeSetgid|0o775), write("grouped/file", "g", 0o640),
		write("setuid", "su", 0o755), os.Chown(at("setuid"), 12, 34), os.Chmod(at("setuid"), os.ModeSetuid|os.ModeSetgid|0o4755),
		write("a/plain", "content", 0o644), write("none", "", 0), write("a/b/c/deep", strings.Repeat("deep", 100_000), 0o600),
		write("capable", "#!", 0o755), unix.Setxattr(at("capable"), "security.capability", capability, 0),
		unix.Setxattr(at("a/plain"), "user.note", []byte("x\x00y"), 0), unix.Setxattr(at("a/plain"), "user.empty", nil, 0),
		unix.Setxattr(at("empty"), "trusted.overlay.opaque", []byte("y"), 0),
		os.Mkdir(at("acl"), 0o755), write("acl/before", "1", 0o640), unix.Setxattr(at("acl"), "system.posix_acl_default", acl, 0),
		os.Mkdir(at("acl/under"), 0o750), write("acl/under/inherits", "2", 0o640),
		os.Link(at("a/plain"), at("a/b/plain2")), os.Link(at("a/plain"), at("zz-plain3")),
		os.Symlink("../../outside", at("a/dangling")), os.Symlink("/etc/passwd", at("absolute")), os.Symlink("a", at("todir")),
		unix.Lsetxattr(at("todir"), "trusted.link", []byte("l"), 0), os.Link(at("absolute"), at("absolute2")),
		unix.Mkfifo(at("fifo"), 0o620), unix.Mknod(at("socket"), unix.S_IFSOCK|0o755, 0),
		unix.Mknod(at("whiteout"), unix.S_IFCHR, 0), unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mknod(at("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 300_000))),
		write(strings.Repeat("n", 255), "long", 0o644), write("new\nline \xff \\", "odd", 0o644), write("-a", "dash", 0o644), write("a.b", "sorts", 0o644),
		sparse(at("sparse")), os.Truncate(at("none"), 5<<30),
	)
	for i := range 300 {
		check(tb, write(fmt.Sprintf("a/b/c/%03d", i), strings.Repeat("s", i), 0o644))
	}
	check(tb, touch(at("a/plain"), 1_000_000_000, 123_456_789), touch(at("fifo"), -5, 1), touch(at("todir"), 4_000_000_000, 999_999_999),
		touch(at("a/b/c"), 7, 7), touch(at("a/b"), 8, 8), touch(at("a"), 9, 9), touch(root, 10, 10))
}

// sparse makes a file with data, an allocated zero range and holes.
func sparse(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err1 := f.WriteAt(bytes.Repeat([]byte("data"), 4096), 3<<20)
	_, err2 := f.WriteAt(make([]byte, 1<<20), 8<<20)
	_, err3 := f.WriteAt([]byte("end"), 64<<20)
	return errors.Join(err1, err2, err3, f.Truncate(100<<20))
}

func blocks(tb testing.TB, path string) int64 {
	tb.Helper()
	var st unix.Stat_t
	check(tb, unix.Lstat(path, &st))
	return st.Blocks * 512
}

func TestTreeArrivesWhole(t *testing.T) {
	needRoot(t)
	src, dst := t.TempDir(), t.TempDir()
	everything(t, src)
	// The five gigabytes of none are a hole; reading them to compare is not what is tested.
	check(t, os.Truncate(filepath.Join(src, "none"), 4096))
	index := scan(t, src)
	transfer(t, src, dst, index.All())
	equal(t, src, dst)
	if a, b := blocks(t, filepath.Join(src, "sparse")), blocks(t, filepath.Join(dst, "sparse")); b > a+64<<10 || b < 1<<20 {
		t.Errorf("sparse file takes %d bytes, on the source %d", b, a)
	}
	one, two := digest(t, src), digest(t, dst)
	if one != two {
		t.Errorf("digests differ: %s, %s", one, two)
	}
	later := scan(t, src)
	if c := Diff(index, later); !onlyRecent(index, c) {
		t.Errorf("nothing changed, but: %d changed, %v removed", len(c.Changed), c.Removed)
	}
}

// onlyRecent says whether a change is only of what Diff can't trust because it changed right before the scan.
func onlyRecent(index *Index, c Change) bool {
	return len(c.Removed) == 0 && !slices.ContainsFunc(c.Changed, func(e Entry) bool { return !e.Ctime.after(index.Began.Add(-racy)) })
}

func digest(tb testing.TB, root string) string {
	tb.Helper()
	d, err := Digest(root)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// settle waits until changes can be told by their times.
func settle() { time.Sleep(racy + 10*time.Millisecond) }

func TestSecondTransferSendsTheDifference(t *testing.T) {
	needRoot(t)
	src, dst := t.TempDir(), t.TempDir()
	everything(t, src)
	check(t, os.Truncate(filepath.Join(src, "none"), 4096))
	settle()
	first := scan(t, src)
	transfer(t, src, dst, first.All())
	at := func(name string) string { return filepath.Join(src, name) }
	inPlace := func(name string) error { // same size, same times
		var st unix.Stat_t
		if err := unix.Stat(at(name), &st); err != nil {
			return err
		}
		f, err := os.OpenFile(at(name), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString("D")
		return errors.Join(err, f.Close(), touch(at(name), st.Mtim.Sec, st.Mtim.Nsec))
	}
	check(t,
		inPlace("a/b/c/deep"), // the directory's time stays as it was
		os.RemoveAll(at("grouped")), os.Remove(at("whiteout")), os.Remove(at("fifo")),
		os.RemoveAll(at("acl/under")), os.WriteFile(at("acl/under"), []byte("now a file"), 0o644),
		os.Remove(at("todir")), os.Mkdir(at("todir"), 0o711), os.WriteFile(at("todir/inside"), nil, 0o644),
		os.Remove(at("a/dangling")), os.Symlink("elsewhere", at("a/dangling")),
		os.Link(at("capable"), at("a/capable2")), // a link to what was sent before
		os.Remove(at("zz-plain3")), os.WriteFile(at("zz-plain3"), []byte("alone now"), 0o644),
		os.Rename(at("setuid"), at("empty/setuid")), os.Rename(at("a/b"), at("moved")),
		unix.Lremovexattr(at("a/plain"), "user.note"), unix.Removexattr(at("empty"), "trusted.overlay.opaque"),
		os.Chmod(at("closed"), 0o711), os.Chown(at("null"), 5, 6), os.Truncate(at("sparse"), 4<<20),
	)
	second := scan(t, src)
	change := Diff(first, second)
	if n := len(change.Changed); n == 0 || n > 340 {
		t.Errorf("%d of %d entries are to be sent", n, len(second.Entries))
	}
	transfer(t, src, dst, change)
	equal(t, src, dst)
	if one, two := digest(t, src), digest(t, dst); one != two {
		t.Errorf("digests differ: %s, %s", one, two)
	}
}

// TestManyTransfersOfChangingTrees changes a tree at random, again and again, and sends only the difference each time.
func TestManyTransfersOfChangingTrees(t *testing.T) {
	needRoot(t)
	for seed := range uint64(6) {
		src, dst := t.TempDir(), t.TempDir()
		r := rand.New(rand.NewPCG(seed, 0))
		before := &Index{}
		for round := range 6 {
			for range 40 {
				mutate(r, src)
			}
			if round%2 == 0 {
				settle() // sometimes not: then Diff has to be careful itself
			}
			now := scan(t, src)
			transfer(t, src, dst, Diff(before, now))
			before = now
			equal(t, src, dst)
			if t.Failed() {
				t.Fatalf("seed %d, round %d", seed, round)
			}
		}
	}
}

// mutate does one thing to a tree. Many can't be done; that does not matter.
func mutate(r *rand.Rand, root string) {
	any := func() string {
		p := root
		for range 1 + r.IntN(3) {
			p = filepath.Join(p, string(rune('a'+r.IntN(5))))
		}
		return p
	}
	a, b := any(), any()
	switch r.IntN(14) {
	case 0, 1, 2:
		os.Mkdir(a, 0o755)
	case 3, 4:
		os.WriteFile(a, bytes.Repeat([]byte{byte(r.Uint32())}, r.IntN(9000)), 0o644)
	case 5:
		os.Symlink(b, a)
	case 6:
		os.Link(a, b)
	case 7:
		os.Rename(a, b)
	case 8:
		os.RemoveAll(a)
	case 9:
		unix.Mknod(a, unix.S_IFCHR, 0)
	case 10:
		os.Lchown(a, r.IntN(5), r.IntN(5))
	case 11:
		if f, err := os.OpenFile(a, os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err == nil {
			f.WriteAt([]byte{byte(r.Uint32())}, int64(r.IntN(100_000)))
			f.Close()
		}
	case 12:
		unix.Lsetxattr(a, "trusted.t", []byte{byte(r.Uint32())}, 0)
	case 13:
		touch(a, r.Int64N(1e9), r.Int64N(1e9))
	}
}

// TestFirstTransferOfATreeInUse sends a tree while it changes all the time; the second transfer, at rest, puts everything right.
func TestFirstTransferOfATreeInUse(t *testing.T) {
	needRoot(t)
	src, dst := t.TempDir(), t.TempDir()
	r := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		mutate(r, src)
	}
	check(t, os.WriteFile(filepath.Join(src, "big"), make([]byte, 8<<20), 0o644))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := int64(0); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			mutate(r, src)
			os.Truncate(filepath.Join(src, "big"), (i*7919)%(9<<20)) // shrinks and grows while it is read
		}
	}()
	before := scan(t, src)
	transfer(t, src, dst, before.All())
	for range 3 {
		now := scan(t, src)
		transfer(t, src, dst, Diff(before, now))
		before = now
	}
	close(stop)
	<-stopped
	transfer(t, src, dst, Diff(before, scan(t, src)))
	equal(t, src, dst)
}

func TestOtherFileSystemsAreNotEntered(t *testing.T) {
	needRoot(t)
	x := scan(t, "/sys/fs")
	for _, e := range x.Entries {
		if strings.HasPrefix(e.Path, "cgroup/") && strings.Count(e.Path, "/") > 1 {
			t.Fatalf("entered a mount: %s", e.Path)
		}
	}
}

func TestDigest(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	at := func(name string) string { return filepath.Join(root, name) }
	check(t, os.Mkdir(at("d"), 0o755), os.WriteFile(at("d/f"), []byte("content"), 0o644), os.Link(at("d/f"), at("g")), os.Symlink("x", at("l")),
		touch(at("d/f"), 100, 5))
	first, print := digest(t, root), fingerprint(t, root)
	check(t, touch(root, 5, 5), touch(at("d"), 6, 6), touch(at("l"), 7, 7), touch(at("d/f"), 100, 999))
	if d := digest(t, root); d != first {
		t.Error("times that do not count changed the digest")
	}
	if p := fingerprint(t, root); p == print {
		t.Error("times did not change the fingerprint")
	}
	seen := map[string]string{first: "nothing"}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"mtime of a file", func() error { return touch(at("d/f"), 101, 0) }},
		{"content", func() error {
			return errors.Join(os.WriteFile(at("d/f"), []byte("CONTENT"), 0o644), touch(at("d/f"), 101, 0))
		}},
		{"mode", func() error { return os.Chmod(at("d/f"), 0o600) }},
		{"owner", func() error { return os.Lchown(at("l"), 1, 0) }},
		{"attribute", func() error { return unix.Setxattr(at("d"), "user.a", []byte("1"), 0) }},
		{"link target", func() error { return errors.Join(os.Remove(at("l")), os.Symlink("y", at("l"))) }},
		{"copy in place of a hard link", func() error {
			return errors.Join(os.Remove(at("g")), os.WriteFile(at("g"), []byte("CONTENT"), 0o600), touch(at("g"), 101, 0))
		}},
		{"name", func() error { return os.Rename(at("g"), at("h")) }},
		{"device", func() error { return unix.Mknod(at("n"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) }},
		{"another device", func() error {
			return errors.Join(os.Remove(at("n")), unix.Mknod(at("n"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
		}},
	} {
		before := fingerprint(t, root)
		check(t, step.do())
		d := digest(t, root)
		if other, ok := seen[d]; ok {
			t.Errorf("%s: digest as after %s", step.name, other)
		}
		seen[d] = step.name
		if fingerprint(t, root) == before {
			t.Errorf("%s: same fingerprint", step.name)
		}
	}
	if !strings.HasPrefix(first, "sha256:") || len(first) != 7+64 {
		t.Errorf("digest %q", first)
	}
}

func fingerprint(tb testing.TB, root string) string {
	tb.Helper()
	p, err := Fingerprint(root)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}
