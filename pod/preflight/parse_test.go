package preflight

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseStatus(t *testing.T) {
	var p process
	text := "Name:\tnginx: worker\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t4711\nPid:\t4711\nPPid:\t4700\nTracerPid:\t99\n" +
		"NStgid:\t4711\t17\t3\nNSpid:\t4711\t17\t3\nNSpgid:\t4700\t1\t0\nNSsid:\t4700\t1\t0\nThreads:\t12\nSeccomp:\t2\n"
	if err := p.parseStatus(text); err != nil {
		t.Fatal(err)
	}
	if p.name != "nginx: worker" || p.state != 'S' || p.parent != 4700 || p.tracer != 99 || p.threads != 12 {
		t.Errorf("got %+v", p)
	}
	if diff := cmp.Diff([][]int{{4711, 17, 3}, {4700, 1, 0}}, [][]int{p.pids, p.sessions}); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	for level, want := range []int{4711, 17, 3, 3} {
		if p.setLevel(level); p.inner != want {
			t.Errorf("level %d: it is %d, want %d", level, p.inner, want)
		}
		if outside := p.sessionOutside(level); outside != (level == 2) {
			t.Errorf("level %d: session outside is %v", level, outside)
		}
	}
	if tracer := tracerOf(text); tracer != 99 {
		t.Errorf("tracer %d, want 99", tracer)
	}
	for _, bad := range []string{"", "Name:\tx\nState:\tS\n", "NSpid:\t1\n", "State:\tS\nNSpid:\t1\tx\n", "PPid:\tx\nState:\tS\nNSpid:\t1\n"} {
		if err := new(process).parseStatus(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestTree(t *testing.T) {
	all := []*process{
		{pid: 50, parent: 10},
		{pid: 10, parent: 1},
		{pid: 20, parent: 10},
		{pid: 30, parent: 20},
		{pid: 15, parent: 10},
		{pid: 60, parent: 2},
		{pid: 61, parent: 60},
		{pid: 70, parent: 71},
		{pid: 71, parent: 70},
	}
	numbers := func(list []*process) (out []int) {
		for _, p := range list {
			out = append(out, p.pid)
		}
		return out
	}
	inside, outside := tree(10, all)
	if diff := cmp.Diff([][]int{{10, 15, 20, 30, 50}, {60, 61, 70, 71}}, [][]int{numbers(inside), numbers(outside)}); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	if inside, outside := tree(99, all); len(inside) != 0 || len(outside) != len(all) {
		t.Errorf("without the first process: %v inside, %v outside", numbers(inside), numbers(outside))
	}
}

func TestParseMounts(t *testing.T) {
	table, err := parseMounts(`100 99 0:40 / / rw - overlay overlay rw
101 100 0:41 / /dev rw - tmpfs tmpfs rw
102 101 0:42 / /dev/pts rw - devpts devpts rw
103 100 8:1 /srv/a\040b /srv/a\040b rw - ext4 /dev/sda1 rw
104 103 0:43 / /srv/a\040b rw - tmpfs tmpfs rw
105 100 0:44 / /opt/x rw - tmpfs tmpfs rw
106 100 0:45 / /opt rw - tmpfs tmpfs rw
107 105 0:46 / /opt/x/y rw - tmpfs tmpfs rw
`)
	if err != nil {
		t.Fatal(err)
	}
	if m := table[103]; m.target != "/srv/a b" || m.dev != unix.Mkdev(8, 1) || m.parent != 100 || m.fstype != "ext4" {
		t.Errorf("got %+v", m)
	}
	var hidden []uint64
	for _, m := range table.sorted() {
		if table.isHidden(m) {
			hidden = append(hidden, m.id)
		}
	}
	if diff := cmp.Diff([]uint64{103, 105, 107}, hidden); diff != "" {
		t.Errorf("hidden mounts: want (-), got (+):\n%s", diff)
	}
	for _, bad := range []string{"1 2 3", "x 99 0:40 / / rw - overlay overlay rw", "1 2 0 / / rw - a b", "1 2 0:1 / / rw shared:1"} {
		if _, err := parseMounts(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestParseMapping(t *testing.T) {
	for line, want := range map[string]*mapping{
		"7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n":                                   nil,
		"00400000-00401000 r-xp 00001000 08:01 123                        /usr/bin/a b\n":      {0x400000, 0x401000, unix.Mkdev(8, 1), 123, "/usr/bin/a b"},
		"7f0000000000-7f0000001000 rw-s 00000000 00:0f 1041               anon_inode:[perf]\n": {0x7f0000000000, 0x7f0000001000, unix.Mkdev(0, 15), 1041, "anon_inode:[perf]"},
		"7ffd00000000-7ffd00001000 rw-p 00000000 00:00 0                  [stack]\n":           {0x7ffd00000000, 0x7ffd00001000, 0, 0, "[stack]"},
		"": nil,
	} {
		got, named := parseMapping(line)
		if named != (want != nil) || want != nil && got != *want {
			t.Errorf("%q: got %+v, %v", line, got, named)
		}
	}
}

func TestParsePidfd(t *testing.T) {
	for text, want := range map[string][2]int64{
		"pos:\t0\nflags:\t02000002\nmnt_id:\t4\nPid:\t31600\nNSpid:\t31600\t17\n": {31600, 0o2000002},
		"flags:\t02000202\nPid:\t-1\n":                                            {-1, 0o2000202},
		"":                                                                        {},
	} {
		if pid, flags := parsePidfd(text); int64(pid) != want[0] || flags != want[1] {
			t.Errorf("%q: got %d, %o", text, pid, flags)
		}
	}
}

func TestParseWatch(t *testing.T) {
	w, kind := parseWatch("inotify wd:2 ino:9860d7 sdev:800029 mask:2 ignored_mask:0 fhandle-bytes:4 fhandle-type:1 f_handle:d7609800ff")
	if kind != watchesFile || w.ino != 0x9860d7 || w.dev != unix.Mkdev(8, 0x29) || w.handle.Type() != 1 || !slices.Equal(w.handle.Bytes(), []byte{0xd7, 0x60, 0x98, 0}) {
		t.Errorf("got %+v, %d", w, kind)
	}
	for line, want := range map[string]int{
		"fanotify ino:4f969 sdev:800013 mflags:0 mask:3b ignored_mask:40000000 fhandle-bytes:8 fhandle-type:1 f_handle:69f90400c275b5b4": watchesFile,
		"fanotify flags:10 event-flags:0":                              watchesNothing,
		"fanotify mnt_id:12 mflags:40 mask:38 ignored_mask:40000003":   watchesNothing,
		"fanotify sdev:800013 mflags:0 mask:3b ignored_mask:40000000":  watchesOther,
		"inotify wd:1 ino:1 sdev:1 mask:1 ignored_mask:0 f_handle:xyz": watchesFile,
		"inotify":        watchesNothing,
		"pos:\t0":        watchesNothing,
		"inotify-x a:b":  watchesNothing,
		"":               watchesNothing,
		"fanotify ino:1": watchesFile,
	} {
		if _, kind := parseWatch(line); kind != want {
			t.Errorf("%q: got %d, want %d", line, kind, want)
		}
	}
}

func TestParseTerminal(t *testing.T) {
	st := parseTerminal("4711 (a) b (c) S 4700 4711 4600 34817 4712 4194304 1 2 3")
	if st.session != 4600 || st.foreground != 4712 || !st.isOn(1) || st.isOn(0) {
		t.Errorf("got %+v", st)
	}
	// 136 and more: each major has 256 of them
	if st := parseTerminal("1 (a) S 0 1 1 35074 1 0"); !st.isOn(258) {
		t.Errorf("got %+v", st)
	}
	for _, text := range []string{"", "1 (a) S 0", "1 (a) S 0 1 1 0 -1 0"} {
		if st := parseTerminal(text); st.isOn(0) {
			t.Errorf("%q: is on a terminal: %+v", text, st)
		}
	}
	for name, want := range map[string]int{"/dev/pts/7": 7, "/dev/console": 0, "/dev/pts/ptmx": 0} {
		if got := slaveIndex(name); got != want {
			t.Errorf("%s: got %d, want %d", name, got, want)
		}
	}
}

func TestRefusedGroups(t *testing.T) {
	for _, c := range []struct {
		groups  []uint32
		bound   bool
		refused bool
	}{
		{nil, false, false},
		{[]uint32{0}, false, false},
		{[]uint32{1}, true, false},
		{[]uint32{1}, false, true},
		{[]uint32{1, 0}, true, false},
		{[]uint32{0, 1}, true, true},
		{[]uint32{1, 0, 0}, true, true}, // more groups than 64, though none of them is taken
		{[]uint32{0, 0, 0}, true, false},
	} {
		if got := refusedGroups(c.groups, c.bound); (got != "") != c.refused {
			t.Errorf("%v, bound %v: got %q", c.groups, c.bound, got)
		}
	}
}

// message makes a netlink message of its body.
func message(kind uint16, body []byte) []byte {
	out := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	out = binary.NativeEndian.AppendUint16(out, kind)
	out = append(out, make([]byte, 10)...)
	out = append(out, body...)
	return append(out, make([]byte, align4(len(out))-len(out))...)
}

// attribute makes a netlink attribute.
func attribute(kind uint16, value []byte) []byte {
	out := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	out = append(binary.NativeEndian.AppendUint16(out, kind), value...)
	return append(out, make([]byte, align4(len(out))-len(out))...)
}

func number32(values ...uint32) (out []byte) {
	for _, v := range values {
		out = binary.NativeEndian.AppendUint32(out, v)
	}
	return out
}

func TestParseUnixSockets(t *testing.T) {
	body := append([]byte{unix.AF_UNIX, unix.SOCK_STREAM, stateListen, 0}, number32(77, 1, 2)...)
	body = append(body, attribute(unixDiagName, []byte("/run/s\x00"))...)
	body = append(body, attribute(unixDiagPeer, number32(78))...)
	body = append(body, attribute(unixDiagIcons, number32(79, 0))...)
	body = append(body, attribute(unixDiagRqlen, number32(2, 5))...)
	body = append(body, attribute(unixDiagShutdown, []byte{3})...)
	data := slices.Concat(message(20, body), message(unix.NLMSG_DONE, number32(0)))
	found := map[uint32]*unixInfo{}
	done, err := parseUnixSockets(data, found)
	if err != nil || !done {
		t.Fatal(done, err)
	}
	want := map[uint32]*unixInfo{77: {
		kind: unix.SOCK_STREAM, state: stateListen, shutdown: 3, peer: 78, name: "/run/s", waiting: []uint32{79, 0}, unread: 2, unsent: 5,
	}}
	if diff := cmp.Diff(want, found, cmp.AllowUnexported(unixInfo{})); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	if done, err := parseUnixSockets(data[:len(data)-20], found); done || err != nil {
		t.Errorf("without the end: %v, %v", done, err)
	}
	for name, bad := range map[string][]byte{
		"error": message(unix.NLMSG_ERROR, number32(0xffffffff)), "short error": message(unix.NLMSG_ERROR, nil),
		"short socket": message(20, []byte{1}), "long": number32(1000, 0, 0, 0), "no length": number32(0, 0, 0, 0),
	} {
		if _, err := parseUnixSockets(bad, found); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzParseUnixSockets(f *testing.F) {
	f.Add(message(20, append([]byte{1, 1, 1, 0}, number32(1, 2, 3, 4, 5)...)))
	f.Add(message(unix.NLMSG_DONE, nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		found := map[uint32]*unixInfo{}
		if done, err := parseUnixSockets(data, found); done && err != nil {
			t.Errorf("done, and yet %v", err)
		}
	})
}

func TestSocketName(t *testing.T) {
	for value, want := range map[string]string{"": "", "/run/s\x00": "/run/s", "\x00bus": "@bus", "\x00a\x00\xff": `@a\x00\xff`, "rel": "rel"} {
		if got := socketName([]byte(value)); got != want {
			t.Errorf("%q: got %q, want %q", value, got, want)
		}
	}
}

func TestReport(t *testing.T) {
	a, b := &process{pid: 100, inner: 1, name: "a"}, &process{pid: 101, inner: 7, name: "b"}
	got := report([]finding{
		{code: "x", process: b, fd: 4, detail: "d", hint: "h"},
		{code: "y", process: b, fd: -1, what: "/f", detail: "e", hint: "h"},
		{code: "x", process: a, fd: 4, detail: "d", hint: "h"},
		{code: "z", fd: -1, what: "many", detail: "e", hint: "h"},
		{code: "x", process: a, fd: 3, what: "/g", detail: "d", hint: "h"},
	})
	var lines []string
	for _, l := range got {
		lines = append(lines, l.String())
	}
	want := []string{
		"z many: e (h)", "x process 1 (a), descriptor 3, /g: d (h)", "x process 1 (a), descriptor 4 (and in another process): d (h)",
		"y process 7 (b), /f: e (h)",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
}
