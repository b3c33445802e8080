package stream

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// entry makes a node record as a well-behaved sender would, but for what the test makes of it.
func entry(path string, mode uint32, target string, attrs ...xattr) []byte {
	e := Entry{Path: path, Mode: mode, UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	return appendNode(nil, &e, target, attrs)
}

const (
	dir  = unix.S_IFDIR | 0o755
	file = unix.S_IFREG | 0o644
	link = unix.S_IFLNK | 0o777
)

func data(offset int64, content string) []byte {
	return append(appendDataHead(nil, offset, len(content)), content...)
}

// play sends records to Receive on root and returns the errors of both sides.
func play(t *testing.T, root string, limits Limits, begin any, records ...[]byte) (receiver, sender error) {
	t.Helper()
	x, y := pair(t)
	defer x.Close()
	defer y.Close()
	reply := x.Await(typeTreeDone)
	go func() {
		x.WriteJSON(typeTreeBegin, begin)
		for _, r := range records {
			x.WriteData(typeTreeData, r)
		}
		x.WriteJSON(typeTreeEnd, treeEnd{})
	}()
	_, receiver = Receive(context.Background(), y, root, limits)
	var done treeDone
	if err := reply.JSON(&done); err != nil {
		t.Fatalf("no answer: %v", err)
	}
	if done.Error != "" {
		sender = errors.New(done.Error)
	}
	return receiver, sender
}

// whole is a complete file.
var whole = slices.Concat(entry("f", file, ""), data(0, "x"), appendEnd(nil, 1))

// hostileTrees are what no Send sends, and what is said about it; alternatives are separated by a bar.
var hostileTrees = []struct {
	name    string
	want    string
	limits  Limits
	records [][]byte
}{
	{"parent", "unacceptable path", Limits{}, [][]byte{entry("../evil", dir, "")}},
	{"parent inside", "unacceptable path", Limits{}, [][]byte{entry("a/../../evil", dir, "")}},
	{"absolute", "unacceptable path", Limits{}, [][]byte{entry("/evil", dir, "")}},
	{"empty", "unacceptable path", Limits{}, [][]byte{entry("", dir, "")}},
	{"empty element", "unacceptable path", Limits{}, [][]byte{entry("a//b", dir, "")}},
	{"trailing slash", "unacceptable path", Limits{}, [][]byte{entry("a/", dir, "")}},
	{"dot", "unacceptable path", Limits{}, [][]byte{entry("./a", dir, "")}},
	{"nul", "unacceptable path", Limits{}, [][]byte{entry("a\x00b", dir, "")}},
	{"long name", "unacceptable path", Limits{}, [][]byte{entry(strings.Repeat("n", 256), dir, "")}},
	{"long path", "malformed record", Limits{}, [][]byte{entry(strings.Repeat("n/", 2048)+"n", dir, "")}},
	{"through a link", "too many levels|not a directory", Limits{}, [][]byte{entry("l", link, "../outside"), entry("l/evil", dir, "")}},
	{"file through a link", "too many levels|not a directory", Limits{}, [][]byte{
		entry("l", link, "../outside"),
		slices.Concat(entry("l/evil", file, ""), appendEnd(nil, 0)),
	}},
	{"remove through a link", "", Limits{}, [][]byte{entry("l", link, "../outside"), appendRemove(nil, "l/precious")}},
	{"remove the root", "unacceptable path", Limits{}, [][]byte{appendRemove(nil, ".")}},
	{"remove the parent", "unacceptable path", Limits{}, [][]byte{appendRemove(nil, "..")}},
	{"link out", "unacceptable path", Limits{}, [][]byte{appendLink(nil, "evil", "../outside/precious")}},
	{
		"link through a link", "too many levels|not a directory",
		Limits{},
		[][]byte{entry("l", link, "../outside"), appendLink(nil, "evil", "l/precious")},
	},
	{"link to itself", "unacceptable path", Limits{}, [][]byte{whole, appendLink(nil, "f", "f")}},
	{"link to nothing", "no such file", Limits{}, [][]byte{appendLink(nil, "a", "b")}},
	{"link to a directory", "operation not permitted", Limits{}, [][]byte{entry("d", dir, ""), appendLink(nil, "a", "d")}},
	{"root as a file", "malformed record", Limits{}, [][]byte{entry(".", file, "")}},
	{"root as a link", "malformed record", Limits{}, [][]byte{entry(".", link, "x")}},
	{"no type", "malformed record", Limits{}, [][]byte{entry("a", 0o644, "")}},
	{"two types", "malformed record", Limits{}, [][]byte{entry("a", unix.S_IFSOCK|unix.S_IFIFO, "")}},
	{"link without a target", "malformed record", Limits{}, [][]byte{entry("a", link, "")}},
	{"target with nul", "malformed record", Limits{}, [][]byte{entry("a", link, "x\x00y")}},
	{"directory with a target", "malformed record", Limits{}, [][]byte{entry("a", dir, "x")}},
	{"content without a file", "content without a file", Limits{}, [][]byte{data(0, "x")}},
	{"content after its end", "content without a file", Limits{}, [][]byte{whole, data(0, "x")}},
	{"file without an end", "content without an end", Limits{}, [][]byte{entry("f", file, "")}},
	{"node in a file", "without an end", Limits{}, [][]byte{entry("f", file, ""), entry("d", dir, "")}},
	{"end before the data", "1 bytes long, written to 6", Limits{}, [][]byte{entry("f", file, ""), data(5, "x"), appendEnd(nil, 1)}},
	{"data beyond all bounds", "malformed record", Limits{}, [][]byte{entry("f", file, ""), data(1<<63-1, "x")}},
	{"zeros beyond all bounds", "malformed record", Limits{}, [][]byte{entry("f", file, ""), appendZero(nil, 1<<62, 1<<62)}},
	{"size beyond all bounds", sizeRefused, Limits{}, [][]byte{entry("f", file, ""), appendEnd(nil, 1<<63-1)}},
	{"data longer than its frame", "malformed record", Limits{}, [][]byte{entry("f", file, ""), appendDataHead(nil, 0, 100)}},
	{"unknown record", "malformed record", Limits{}, [][]byte{[]byte("?")}},
	{"attribute without a name", "malformed record", Limits{}, [][]byte{entry("a", dir, "", xattr{"", nil})}},
	{"large attribute", "malformed record", Limits{}, [][]byte{entry("a", dir, "", xattr{"user.a", make([]byte, 64<<10+1)})}},
	{"large attributes", "malformed record", Limits{}, [][]byte{entry("a", dir, "", slices.Repeat([]xattr{{"user.a", make([]byte, 64<<10)}}, 9)...)}},
	{"too many bytes", "over its limit", Limits{MaxBytes: 10}, [][]byte{entry("f", file, ""), data(0, "0123456789a")}},
	{"too many zeros", "over its limit", Limits{MaxBytes: 10}, [][]byte{entry("f", file, ""), appendZero(nil, 0, 11)}},
	{"too many bytes by and by", "over its limit", Limits{MaxBytes: 10}, [][]byte{entry("f", file, ""), data(0, "012345"), data(0, "012345")}},
	{"too many entries", "over its limit", Limits{MaxEntries: 2}, [][]byte{entry("a", dir, ""), entry("b", dir, ""), entry("c", dir, "")}},
	{"too many removals", "over its limit", Limits{MaxEntries: 1}, [][]byte{appendRemove(nil, "a"), appendRemove(nil, "b")}},
	{"too deep", "over its limit", Limits{MaxDepth: 2}, [][]byte{entry("a", dir, ""), entry("a/b", dir, ""), entry("a/b/c", dir, "")}},
	{"one too many after a good one", "unacceptable path", Limits{}, [][]byte{slices.Concat(whole, entry("../evil", dir, ""))}},
}

// sizeRefused is what the kernel's word about a size comes in.
const sizeRefused = "f: set size"

// takesAnySize says whether the kernel has nothing against the largest size here.
func takesAnySize(t *testing.T, dir string) bool {
	t.Helper()
	path := filepath.Join(dir, "large")
	check(t, os.WriteFile(path, nil, 0o600))
	defer os.Remove(path)
	return os.Truncate(path, 1<<63-1) == nil
}

// TestHostileTrees sends what no Send sends. Nothing outside of the root may change, and both sides must hear of it.
func TestHostileTrees(t *testing.T) {
	for _, test := range hostileTrees {
		t.Run(test.name, func(t *testing.T) {
			parent := t.TempDir()
			root, outside := filepath.Join(parent, "root"), filepath.Join(parent, "outside")
			check(t, os.Mkdir(root, 0o755), os.Mkdir(outside, 0o755), os.WriteFile(filepath.Join(outside, "precious"), []byte("p"), 0o644))
			if test.want == sizeRefused && takesAnySize(t, parent) {
				t.Skip("this file system, a tmpfs as it seems, makes files of any size")
			}
			before := describe(t, outside)
			receiver, sender := play(t, root, test.limits, treeBegin{}, test.records...)
			for side, err := range map[string]error{"receiver": receiver, "sender": sender} {
				if test.want == "" && err == nil {
					continue
				}
				if err == nil || !slices.ContainsFunc(strings.Split(test.want, "|"), func(w string) bool { return strings.Contains(err.Error(), w) }) {
					t.Errorf("%s: %v, want %q", side, err, test.want)
				}
			}
			after := describe(t, outside)
			if fmt.Sprint(before) != fmt.Sprint(after) {
				t.Errorf("outside changed:\n%v\n%v", before, after)
			}
			if names, _ := filepath.Glob(filepath.Join(parent, "*")); len(names) != 2 {
				t.Errorf("beside the root: %v", names)
			}
		})
	}
}

func TestAnnouncedSizeIsRefusedAtOnce(t *testing.T) {
	for _, begin := range []any{treeBegin{Entries: 11}, treeBegin{Bytes: 101}, "not an object", map[string]string{"entries": "many"}} {
		receiver, sender := play(t, t.TempDir(), Limits{MaxEntries: 10, MaxBytes: 100}, begin, entry("a", dir, ""))
		if receiver == nil || sender == nil {
			t.Errorf("%v was accepted", begin)
		}
	}
}

// TestConversationOutOfOrder sends frames where they don't belong.
func TestConversationOutOfOrder(t *testing.T) {
	for name, say := range map[string]func(x *Conn) error{
		"data first": func(x *Conn) error { return x.WriteData(typeTreeData, entry("a", dir, "")) },
		"begin twice": func(x *Conn) error {
			return errors.Join(x.WriteJSON(typeTreeBegin, 1), x.WriteJSON(typeTreeBegin, treeBegin{}))
		},
		"data as a document": func(x *Conn) error {
			return errors.Join(x.WriteJSON(typeTreeBegin, treeBegin{}), x.WriteJSON(typeTreeData, "x"))
		},
		"foreign frame":     func(x *Conn) error { return x.WriteJSON(0x22, "x") },
		"end with an error": func(x *Conn) error { return x.WriteJSON(typeTreeBegin, treeBegin{}) },
		"end is no document": func(x *Conn) error {
			return errors.Join(x.WriteJSON(typeTreeBegin, treeBegin{}), x.WriteData(typeTreeEnd, nil))
		},
		"only an end, no tree": func(x *Conn) error { return nil },
	} {
		x, y := pair(t)
		reply := x.Await(typeTreeDone)
		go func() { say(x); x.WriteJSON(typeTreeEnd, treeEnd{"sender's own trouble"}) }()
		_, err := Receive(context.Background(), y, t.TempDir(), Limits{})
		var done treeDone
		if e := reply.JSON(&done); err == nil || e != nil || done.Error == "" {
			t.Errorf("%s: %v; told %q, %v", name, err, done.Error, e)
		}
	}
}

func TestOptionalFramesInATransferAreSkipped(t *testing.T) {
	x, y := pair(t)
	root := t.TempDir()
	reply := x.Await(typeTreeDone)
	go func() {
		x.WriteJSON(0x9f, "news")
		x.WriteJSON(typeTreeBegin, treeBegin{})
		x.WriteData(0xff, []byte("more"))
		x.WriteData(typeTreeData, entry("a", dir, ""))
		x.WriteJSON(typeTreeEnd, treeEnd{})
	}()
	if _, err := Receive(context.Background(), y, root, Limits{}); err != nil {
		t.Fatal(err)
	}
	var done treeDone
	if err := reply.JSON(&done); err != nil || done.Error != "" || done.Entries != 1 {
		t.Errorf("%+v, %v", done, err)
	}
}

// smallTmpfs returns the path of a tmpfs that is mounted nowhere and vanishes with the test.
func smallTmpfs(t *testing.T, size string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a tmpfs")
	}
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Skipf("needs fsopen: %v", err)
	}
	defer unix.Close(fs)
	check(t, unix.FsconfigSetString(fs, "size", size), unix.FsconfigCreate(fs))
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	check(t, err)
	t.Cleanup(func() { unix.Close(mount) })
	return procSelf(mount) + "/."
}

// TestFullDisk fails on the receiver while the sender still has much to send. The sender hears why, and the connection goes on.
func TestFullDisk(t *testing.T) {
	dst, src := smallTmpfs(t, "1m"), t.TempDir()
	for i := range 20 {
		noise := make([]byte, 8<<20)
		binary.LittleEndian.PutUint64(noise[4<<20:], uint64(i+1))
		check(t, os.WriteFile(filepath.Join(src, fmt.Sprint(i)), noise, 0o644))
	}
	x, y := pair(t)
	received := make(chan error, 1)
	go func() {
		_, err := Receive(context.Background(), y, dst, Limits{})
		received <- err
	}()
	_, err := Send(context.Background(), x, src, scan(t, src).All())
	var remote *RemoteError
	if !errors.As(err, &remote) || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("sender: %v", err)
	}
	if err := <-received; !errors.Is(err, unix.ENOSPC) {
		t.Errorf("receiver: %v", err)
	}

	small, copied := t.TempDir(), t.TempDir()
	check(t, os.WriteFile(filepath.Join(small, "f"), []byte("f"), 0o644))
	go func() {
		_, err := Receive(context.Background(), y, copied, Limits{})
		received <- err
	}()
	if _, err := Send(context.Background(), x, small, scan(t, small).All()); err != nil {
		t.Errorf("second transfer: %v", err)
	}
	if err := <-received; err != nil {
		t.Errorf("second transfer: %v", err)
	}
	equal(t, small, copied)
}

// TestLostConnection cuts the connection in the middle of a transfer: both sides end with an error.
func TestLostConnection(t *testing.T) {
	src := t.TempDir()
	check(t, os.WriteFile(filepath.Join(src, "f"), make([]byte, 1), 0o644), os.Truncate(filepath.Join(src, "f"), 1))
	for name, cut := range map[string]func(x, y *Conn){
		"sender closes":   func(x, _ *Conn) { x.NetConn().Close() },
		"receiver closes": func(_, y *Conn) { y.NetConn().Close() },
	} {
		x, y := pair(t)
		x.SetLimiter(NewLimiter(20)) // it takes a second to say hello
		received, sent := make(chan error, 1), make(chan error, 1)
		go func() { _, err := Receive(context.Background(), y, t.TempDir(), Limits{}); received <- err }()
		go func() { _, err := Send(context.Background(), x, src, scan(t, src).All()); sent <- err }()
		time.Sleep(20 * time.Millisecond)
		cut(x, y)
		for side, c := range map[string]chan error{"receiver": received, "sender": sent} {
			select {
			case err := <-c:
				if err == nil {
					t.Errorf("%s: %s did not notice", name, side)
				}
			case <-time.After(wait):
				t.Fatalf("%s: %s hangs", name, side)
			}
		}
	}
}

// TestNothingIsLeftBehind counts goroutines and descriptors after transfers that failed in many ways.
func TestNothingIsLeftBehind(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	check(t, os.WriteFile(filepath.Join(src, "f"), make([]byte, 4<<20), 0o644))
	count := func() (int, int) {
		fds, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		return runtime.NumGoroutine(), len(fds)
	}
	round := func(i int) {
		a, b := tcp(t)
		x, y := NewConn(Buffered(a)), NewConn(b)
		received := make(chan struct{})
		go func() {
			Receive(context.Background(), y, dst, Limits{MaxBytes: int64(i % 3)})
			y.Close()
			close(received)
		}()
		if i%4 == 0 {
			time.AfterFunc(time.Duration(i)*100*time.Microsecond, func() { x.Close() })
		}
		Send(context.Background(), x, src, scan(t, src).All())
		x.Close()
		<-received
	}
	round(0)
	goroutines, descriptors := count()
	for i := range 40 {
		round(i)
	}
	for deadline := time.Now().Add(wait); ; time.Sleep(5 * time.Millisecond) {
		g, d := count()
		if g <= goroutines && d <= descriptors {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before; %d descriptors, %d before", g, goroutines, d, descriptors)
		}
	}
}

// TestCancelledTransfer ends both sides by their contexts.
func TestCancelledTransfer(t *testing.T) {
	reason := errors.New("operator changed his mind")
	ctx, cancel := context.WithCancelCause(context.Background())
	src := t.TempDir()
	x, y := pair(t)
	x.SetLimiter(NewLimiter(20))
	received, sent := make(chan error, 1), make(chan error, 1)
	go func() { _, err := Receive(ctx, y, t.TempDir(), Limits{}); received <- err }()
	go func() { _, err := Send(ctx, x, src, scan(t, src).All()); sent <- err }()
	time.Sleep(20 * time.Millisecond)
	cancel(reason)
	for _, c := range []chan error{received, sent} {
		select {
		case err := <-c:
			if !errors.Is(err, reason) {
				t.Error(err)
			}
		case <-time.After(wait):
			t.Fatal("a side hangs")
		}
	}
}

func TestRootMustBeADirectory(t *testing.T) {
	parent := t.TempDir()
	check(t, os.WriteFile(filepath.Join(parent, "file"), nil, 0o600), os.Symlink(".", filepath.Join(parent, "link")))
	for _, name := range []string{"file", "link", "missing"} {
		if _, err := Scan(filepath.Join(parent, name)); err == nil {
			t.Errorf("scanned %s", name)
		}
		receiver, sender := play(t, filepath.Join(parent, name), Limits{}, treeBegin{}, entry("a", dir, ""))
		if receiver == nil || sender == nil {
			t.Errorf("received into %s", name)
		}
	}
}
