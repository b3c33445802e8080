package pages_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod/pages"
	"golang.org/x/sys/unix"
)

const page = 4096

// Commands of CRIU's page server protocol, as criu/page-xfer.c has them.
const (
	add, hole, open1, open2, parent, addFlags, get = 1, 2, 3, 4, 5, 6, 7
	closing, forceClosing                          = 0x1023, 0x1024
	present, lazy                                  = 4, 2
)

// fakeCRIU is CRIU's end of the socket, spoken by hand. What it does wrong is a test's intent.
type fakeCRIU struct {
	f   *os.File
	err error
}

func (c *fakeCRIU) write(b []byte) {
	for len(b) > 0 && c.err == nil {
		var n int
		if n, c.err = unix.SendmsgN(int(c.f.Fd()), b, nil, nil, unix.MSG_NOSIGNAL); c.err == nil {
			b = b[n:]
		}
	}
}

func (c *fakeCRIU) read(n int) []byte {
	b := make([]byte, n)
	if c.err == nil {
		_, c.err = io.ReadFull(c.f, b)
	}
	return b
}

func (c *fakeCRIU) open(destination uint64) {
	c.write(header(open2, 0, 0, destination))
	if got := c.read(1); c.err == nil && got[0] != 0 {
		c.err = errors.New("was told of a parent")
	}
}

func (c *fakeCRIU) add(flags uint32, address uint64, destination uint64, content []byte, pages uint64) {
	c.write(header(addFlags|flags<<16, pages, address, destination))
	c.write(content)
}

func (c *fakeCRIU) close() (status int32) {
	c.write(header(forceClosing, 0, 0, 0))
	return int32(binary.LittleEndian.Uint32(c.read(4)))
}

// outcome is what both sides of a channel returned.
type outcome struct {
	sent, received      pages.Stats
	sendErr, receiveErr error
	status              int32
	criuErr             error
	source, target      *stream.Conn
}

// channel runs a page channel into dir with a hand-written CRIU on it. It fails the test if anything hangs.
func channel(t *testing.T, ctx context.Context, dir string, limits pages.Limits, criu func(c *fakeCRIU) int32) outcome {
	t.Helper()
	var o outcome
	o.source, o.target = connPair(t)
	o.run(t, ctx, dir, limits, criu)
	return o
}

func (o *outcome) run(t *testing.T, ctx context.Context, dir string, limits pages.Limits, criu func(c *fakeCRIU) int32, known ...*pages.Shadow) {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	sender, err := pages.NewSender()
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	for _, k := range known {
		sender.Know(k)
	}
	done := make(chan struct{}, 3)
	go func() { o.sent, o.sendErr = sender.Run(ctx, o.source); done <- struct{}{} }()
	go func() { o.received, o.receiveErr = pages.Receive(ctx, o.target, d, limits); done <- struct{}{} }()
	go func() {
		c := &fakeCRIU{f: sender.File()}
		o.status = criu(c)
		o.criuErr = c.err
		sender.File().Close()
		done <- struct{}{}
	}()
	for range 3 {
		select {
		case <-done:
		case <-time.After(2 * idle * slowness()):
			t.Fatal("a side hangs")
		}
	}
}

// random is n pages without a zero one.
func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n*page)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b
}

// images are what a dump should leave: the content of each file, written down as the stand-in sent it.
type images map[string][]byte

func varint(x uint64) []byte { return binary.AppendUvarint(nil, x) }

func (m images) open(name string, number int) {
	m[name] = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, 0x54564319), 0x56084025)
	m.record(name, append([]byte{8}, varint(uint64(number))...))
	m[fmt.Sprintf("pages-%d.img", number)] = []byte{}
}

func (m images) record(name string, message []byte) {
	m[name] = append(binary.LittleEndian.AppendUint32(m[name], uint32(len(message))), message...)
}

func (m images) add(name string, number int, flags, address, pages uint64, content []byte) {
	message := append([]byte{8}, varint(address)...)
	message = append(append(message, 16), varint(pages)...)
	message = append(append(message, 32), varint(flags)...)
	message = append(append(message, 40), varint(pages)...)
	m.record(name, message)
	file := fmt.Sprintf("pages-%d.img", number)
	m[file] = append(m[file], content...)
}

func (m images) compare(t *testing.T, dir string) {
	t.Helper()
	for name, want := range m {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d; %v", name, len(got), len(want), err)
		}
	}
	names, _ := os.ReadDir(dir)
	if len(names) != len(m) {
		t.Errorf("%d files, want %d", len(names), len(m))
	}
}

// TestImages sends two processes and a shared memory object with pages, zero pages, runs longer than any buffer, single pages and lazy
// pages that are not there, and compares every byte of the images.
func TestImages(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	want, dir := images{}, t.TempDir()
	zeros := make([]byte, 700*page)
	o := channel(t, t.Context(), dir, pages.Limits{}, func(c *fakeCRIU) int32 {
		for i, d := range []struct {
			name        string
			destination uint64
		}{{"pagemap-17.img", 17<<8 | 1}, {"pagemap-4000000.img", 4_000_000<<8 | 1}, {"pagemap-shmem-9.img", 9<<8 | 2}} {
			number := 65537 + i
			want.open(d.name, number)
			c.open(d.destination)
			address := uint64(0x7f00_0000_0000)
			for k := range 60 {
				n := []int{1, 1, 3, 700, 1}[r.IntN(5)]
				content := random(r, n)
				switch k % 6 {
				case 1:
					content = zeros[:n*page]
				case 3, 4: // a mixture
					for p := range n {
						if r.IntN(2) == 0 {
							clear(content[p*page : (p+1)*page])
						}
					}
				case 5: // zeros but for the last byte
					content = bytes.Clone(zeros[:n*page])
					content[len(content)-1] = 1
				}
				c.add(present, address, d.destination, content, uint64(n))
				want.add(d.name, number, present, address, uint64(n), content)
				address += uint64(n+1) * page
			}
			c.add(lazy, address, d.destination, nil, 5)
			want.add(d.name, number, lazy, address, 5, nil)
			c.add(present|lazy, 0, d.destination, zeros[:2*page], 2)
			want.add(d.name, number, present|lazy, 0, 2, zeros[:2*page])
		}
		return c.close()
	})
	if o.sendErr != nil || o.receiveErr != nil || o.criuErr != nil || o.status != 0 {
		t.Fatalf("%+v", o)
	}
	want.compare(t, dir)
	if o.sent != o.received || o.sent.Images != 3 || o.sent.Bytes+o.sent.ZeroPages*page != o.sent.Pages*page || o.sent.ZeroPages < 100 {
		t.Errorf("sent %+v, received %+v", o.sent, o.received)
	}
}

// TestZeroPagesTakeNoMemory leaves holes.
func TestZeroPagesTakeNoMemory(t *testing.T) {
	dir := tmpfsDir(t)
	o := channel(t, t.Context(), dir, pages.Limits{}, func(c *fakeCRIU) int32 {
		c.open(1<<8 | 1)
		c.add(present, 0, 1<<8|1, make([]byte, 10_000*page), 10_000)
		return c.close()
	})
	var st unix.Stat_t
	if err := errors.Join(o.sendErr, o.receiveErr, unix.Stat(filepath.Join(dir, "pages-65537.img"), &st)); err != nil {
		t.Fatal(err)
	}
	if st.Size != 10_000*page || st.Blocks != 0 {
		t.Errorf("size %d, %d blocks", st.Size, st.Blocks)
	}
	if wire := o.source.Meter().Counts().WireSent; wire > 64<<10 {
		t.Errorf("%d bytes for nothing but zeros", wire)
	}
}

func TestPagesOfAnEmptyDump(t *testing.T) {
	o := channel(t, t.Context(), t.TempDir(), pages.Limits{}, (*fakeCRIU).close)
	if o.sendErr != nil || o.receiveErr != nil || o.status != 0 || o.criuErr != nil {
		t.Errorf("%+v", o)
	}
}

// forever writes pages until it can't.
func forever(c *fakeCRIU) int32 {
	content := random(rand.New(rand.NewPCG(3, 3)), 256)
	c.open(1<<8 | 1)
	for i := uint64(0); c.err == nil; i++ {
		c.add(present, i*256*page, 1<<8|1, content, 256)
	}
	return -1
}

// TestReceiverFails fails on the target in the middle of an endless dump: CRIU's socket closes, both sides know why, and the connection
// carries the next dump.
func TestReceiverFails(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "pages-65537.img"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, dir, want string
		limits          pages.Limits
		cause           error
	}{
		{"tmpfs is full", smallTmpfs(t, "4m"), "no space left on device", pages.Limits{}, unix.ENOSPC},
		{"memory limit", tmpfsDir(t), "memory is over its limit", pages.Limits{MaxBytes: 16 << 20}, pages.ErrLimit},
		{"too many runs", tmpfsDir(t), "memory is over its limit", pages.Limits{MaxEntries: 3}, pages.ErrLimit},
		{"images are there", full, "create pages-65537.img: file exists", pages.Limits{}, unix.EEXIST},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := channel(t, t.Context(), test.dir, test.limits, forever)
			var remote *stream.RemoteError
			if !errors.As(o.sendErr, &remote) || !strings.Contains(o.sendErr.Error(), test.want) {
				t.Errorf("sender: %v", o.sendErr)
			}
			if !errors.Is(o.receiveErr, test.cause) {
				t.Errorf("receiver: %v", o.receiveErr)
			}
			if o.criuErr == nil {
				t.Error("criu did not notice")
			}
			again := outcome{source: o.source, target: o.target}
			again.run(t, t.Context(), t.TempDir(), pages.Limits{}, (*fakeCRIU).close)
			if err := errors.Join(again.sendErr, again.receiveErr, again.criuErr); err != nil {
				t.Errorf("the connection's next dump: %v", err)
			}
		})
	}
}

// TestFailureAfterTheLastPage is told to CRIU by the status that it waits for.
func TestFailureAfterTheLastPage(t *testing.T) {
	o := channel(t, t.Context(), t.TempDir(), pages.Limits{MaxBytes: page}, func(c *fakeCRIU) int32 {
		c.open(1<<8 | 1)
		c.add(present, 0, 1<<8|1, bytes.Repeat([]byte{1}, 2*page), 2)
		return c.close()
	})
	if o.sendErr == nil || o.receiveErr == nil || o.status == 0 && o.criuErr == nil {
		t.Errorf("%+v", o)
	}
}

// TestCRIUMisbehaves says things to the sender that no dump says.
func TestCRIUMisbehaves(t *testing.T) {
	const d = 1<<8 | 1
	for name, misbehave := range map[string]func(c *fakeCRIU){
		"dies at once":           func(*fakeCRIU) {},
		"dies in a command":      func(c *fakeCRIU) { c.write(make([]byte, 31)) },
		"dies in a page":         func(c *fakeCRIU) { c.open(d); c.add(present, 0, d, make([]byte, page+1), 2) },
		"dies before the end":    func(c *fakeCRIU) { c.open(d); c.add(present, 0, d, make([]byte, page), 1) },
		"asks for a parent":      func(c *fakeCRIU) { c.write(header(parent, 0, 0, d)) },
		"asks for pages":         func(c *fakeCRIU) { c.open(d); c.write(header(get, 1, 0, d)) },
		"leaves a hole":          func(c *fakeCRIU) { c.open(d); c.write(header(hole, 1, 0, d)) },
		"unknown command":        func(c *fakeCRIU) { c.write(header(99, 0, 0, d)) },
		"unknown kind":           func(c *fakeCRIU) { c.write(header(open2, 0, 0, 1<<8|3)) },
		"pages without an image": func(c *fakeCRIU) { c.add(present, 0, d, make([]byte, page), 1) },
		"another image's pages":  func(c *fakeCRIU) { c.open(d); c.add(present, 0, d+256, make([]byte, page), 1) },
		"one image twice":        func(c *fakeCRIU) { c.open(d); c.open(d) },
		"no pages":               func(c *fakeCRIU) { c.open(d); c.add(present, 0, d, nil, 0) },
		"all pages there are":    func(c *fakeCRIU) { c.open(d); c.add(present, 0, d, nil, 1<<52) },
		"crooked address":        func(c *fakeCRIU) { c.open(d); c.add(present, 7, d, make([]byte, page), 1) },
		"unknown flag":           func(c *fakeCRIU) { c.open(d); c.add(present|8, 0, d, make([]byte, page), 1) },
	} {
		t.Run(name, func(t *testing.T) {
			o := channel(t, t.Context(), t.TempDir(), pages.Limits{}, func(c *fakeCRIU) int32 {
				misbehave(c)
				if name[:4] != "dies" {
					return c.close()
				}
				return -1
			})
			if o.sendErr == nil || o.receiveErr == nil {
				t.Errorf("send: %v; receive: %v", o.sendErr, o.receiveErr)
			}
			if o.status == 0 && o.criuErr == nil {
				t.Error("criu was told that all is well")
			}
			again := outcome{source: o.source, target: o.target}
			again.run(t, t.Context(), t.TempDir(), pages.Limits{}, (*fakeCRIU).close)
			if err := errors.Join(again.sendErr, again.receiveErr, again.criuErr); err != nil {
				t.Errorf("the connection's next dump: %v", err)
			}
		})
	}
}

// TestEndings end a dump from outside: everything returns.
func TestEndings(t *testing.T) {
	reason := errors.New("reason")
	ctx, cancel := context.WithCancelCause(context.Background())
	for name, test := range map[string]struct {
		ctx context.Context
		end func(o *outcome)
	}{
		"cancelled":     {ctx, func(*outcome) { cancel(reason) }},
		"source is cut": {context.Background(), func(o *outcome) { o.source.NetConn().Close() }},
		"target is cut": {context.Background(), func(o *outcome) { o.target.NetConn().Close() }},
		"source stops":  {context.Background(), func(o *outcome) { o.source.Stop(reason); o.source.Close() }},
		"target stops":  {context.Background(), func(o *outcome) { o.target.Stop(reason); o.target.Close() }},
	} {
		t.Run(name, func(t *testing.T) {
			o := outcome{}
			o.source, o.target = connPair(t)
			timer := time.AfterFunc(30*time.Millisecond, func() { test.end(&o) })
			defer timer.Stop()
			o.run(t, test.ctx, tmpfsDir(t), pages.Limits{MaxBytes: 1 << 40}, forever)
			if o.sendErr == nil || o.receiveErr == nil || o.criuErr == nil {
				t.Errorf("send: %v; receive: %v; criu: %v", o.sendErr, o.receiveErr, o.criuErr)
			}
			if name == "cancelled" && (!errors.Is(o.sendErr, reason) || !errors.Is(o.receiveErr, reason)) {
				t.Errorf("send: %v; receive: %v", o.sendErr, o.receiveErr)
			}
		})
	}
}

// TestSilentCRIU thinks for three idle times before it says anything: pings keep the connection.
func TestSilentCRIU(t *testing.T) {
	o := outcome{}
	o.source, o.target = connPair(t)
	const short = 500 * time.Millisecond
	o.source.SetIdle(short)
	o.target.SetIdle(short)
	o.run(t, t.Context(), t.TempDir(), pages.Limits{}, func(c *fakeCRIU) int32 {
		time.Sleep(3 * short)
		c.open(1<<8 | 1)
		time.Sleep(3 * short)
		return c.close()
	})
	if err := errors.Join(o.sendErr, o.receiveErr, o.criuErr); err != nil {
		t.Error(err)
	}
}

// smallTmpfs returns the path of a tmpfs as zap makes them for images, which is mounted nowhere and vanishes with the test.
func smallTmpfs(tb testing.TB, size string) string {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Skip("needs root: mounts a tmpfs")
	}
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		tb.Skipf("needs fsopen: %v", err)
	}
	defer unix.Close(fs)
	for _, option := range append(pages.MountOptions(), "size="+size) {
		key, value, _ := strings.Cut(option, "=")
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			tb.Fatal(option, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		tb.Fatal(err)
	}
	mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(mount) })
	return fmt.Sprintf("/proc/self/fd/%d/.", mount)
}

// TestMemoryDoesNotGrowWithTheDump sends much more than both sides together may allocate.
func TestMemoryDoesNotGrowWithTheDump(t *testing.T) {
	const runs = 600 // of 1 MiB
	content := random(rand.New(rand.NewPCG(5, 5)), 256)
	dir := smallTmpfs(t, "1g")
	var before, after runtime.MemStats
	o := outcome{}
	o.source, o.target = connPair(t)
	runtime.ReadMemStats(&before)
	o.run(t, t.Context(), dir, pages.Limits{}, func(c *fakeCRIU) int32 {
		c.open(1<<8 | 1)
		for i := range uint64(runs) {
			c.add(present, i*256*page, 1<<8|1, content, 256)
		}
		return c.close()
	})
	runtime.ReadMemStats(&after)
	if err := errors.Join(o.sendErr, o.receiveErr, o.criuErr); err != nil || o.received.Bytes != runs<<20 {
		t.Fatalf("%+v, %v", o.received, err)
	}
	if total := after.TotalAlloc - before.TotalAlloc; total > 96<<20 { // under the race detector pools keep little
		t.Errorf("%d bytes allocated for %d of memory", total, o.received.Bytes)
	} else {
		t.Logf("%d KiB allocated in %d pieces for %d MiB of memory", total>>10, after.Mallocs-before.Mallocs, o.received.Bytes>>20)
	}
}
