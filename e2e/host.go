package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// commandTimeout bounds a command that nobody bounded otherwise; a slow machine under load needs a part of it.
	commandTimeout = 60 * time.Second
	// closeDelay is how long a command's output may stay open after it ended, because a child of it has it.
	closeDelay = 5 * time.Second
)

// Host is one machine of a lab.
type Host struct {
	Name  string
	NetNS NetNS
	Addr  netip.Addr // where its peer listens
	Root  string     // --root of every zap in it
	TLS   string     // its directory of keys
	// Wrap is put before every command in the host, for example unshare(1) with a time namespace.
	Wrap []string
	// ServeFlags are more flags of zap serve.
	ServeFlags []string
	// Quiet leaves --debug out of zap's arguments, for who measures it.
	Quiet bool

	lab     *Lab
	zap     string // where zap is on a machine of its own, see Remote; empty for Binary
	port    string // the switch's side of its cable
	servers []*Server
}

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int   // exit code, -1 when it did not exit
	Err            error // nil only for exit code 0
}

func (r Result) String() string {
	return fmt.Sprintf("%v\nstdout: %sstderr: %s", r.Err, lines(r.Stdout), lines(r.Stderr))
}

func lines(s string) string {
	if s = strings.TrimRight(s, "\n"); s == "" {
		return "(empty)\n"
	}
	return "\n  " + strings.ReplaceAll(s, "\n", "\n  ") + "\n"
}

// execute runs a command to its end or the context's.
func execute(ctx context.Context, cmd *exec.Cmd) Result {
	var stdout, stderr bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &stdout
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &stderr
	}
	cmd.WaitDelay = closeDelay
	err := processes.start(cmd)
	if err == nil {
		err = processes.wait(cmd)
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = fmt.Errorf("a process that it left behind holds its output open: %w", err)
	}
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	code := -1
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: code, Err: err}
}

// Command prepares a command in the host's network namespace.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return enter(ctx, h.NetNS, append(append(h.Wrap[:len(h.Wrap):len(h.Wrap)], name), args...)...)
}

func enter(ctx context.Context, n NetNS, argv ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + n.Path(), "--"}, argv...)...)
}

// Try runs a command in the host.
func (h *Host) Try(name string, args ...string) Result {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	return execute(ctx, h.Command(ctx, name, args...))
}

// zapArgs are the arguments of zap in this host.
func (h *Host) zapArgs(args ...string) []string { return append([]string{"--root", h.Root}, args...) }

// TryZap runs zap in the host and answers with how it ended.
func (h *Host) TryZap(t testing.TB, args ...string) Result {
	return h.Try(h.binary(t), h.zapArgs(args...)...)
}

// binary is the zap under test, as commands in the host find it.
func (h *Host) binary(t testing.TB) string {
	if h.remote() {
		return h.zap
	}
	return Binary(t)
}

// Zap runs zap in the host, where it must succeed, and answers with its standard output.
func (h *Host) Zap(t testing.TB, args ...string) string {
	t.Helper()
	r := h.TryZap(t, args...)
	if r.Err != nil {
		t.Fatalf("on %s: zap %s: %v", h.Name, strings.Join(args, " "), r)
	}
	return r.Stdout
}

// Peer is the address of the host's zap serve.
func (h *Host) Peer() string { return netip.AddrPortFrom(h.Addr, PeerPort).String() }

// BoundRoot puts the host's --root on a file system of its own with room for size bytes.
func (h *Host) BoundRoot(t testing.TB, size int64) {
	t.Helper()
	if err := unix.Mount("zap-e2e", h.Root, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		t.Fatalf("mount tmpfs on %s: %v", h.Root, err)
	}
}

// FillRoot takes all room below the host's --root but free bytes, until the function it answers with is called.
func (h *Host) FillRoot(t testing.TB, free int64) (undo func()) {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(h.Root, &st); err != nil {
		t.Fatalf("statfs %s: %v", h.Root, err)
	}
	path := filepath.Join(h.Root, ".filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// What a pod leaves on its way out may take or give some room meanwhile.
	for size := int64(st.Bavail)*st.Bsize - free; size > 0; size -= 1 << 20 {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		if err == nil {
			break
		}
		if err != unix.ENOSPC {
			t.Fatalf("fill %s with %d bytes: %v", h.Root, size, err)
		}
	}
	return func() { os.Remove(path) }
}

// removePods takes away what a test left running, by zap's own means.
func (h *Host) removePods() {
	if h.remote() {
		return // they end with the machine
	}
	pods, err := readDirNames(h.Root)
	if err != nil {
		return
	}
	for _, name := range pods {
		if _, err := os.Stat(filepath.Join(h.Root, name, "state.json")); err == nil {
			h.TryZap(h.lab.t, "pod", "rm", "--force", name)
			h.TryZap(h.lab.t, "delete", "--force", name)
		}
	}
}

// printLogs shows what the host's servers and pods wrote.
func (h *Host) printLogs() {
	t := h.lab.t
	for _, s := range h.servers {
		t.Logf("%s: zap serve logged: %s", h.Name, lines(tail(s.log)))
	}
	if h.remote() {
		return // who runs the machine has printed them before it ended
	}
	found, _ := filepath.Glob(filepath.Join(h.Root, "*", "*log*"))
	for _, path := range found {
		if text := tail(path); text != "" {
			t.Logf("%s: %s: %s", h.Name, path, lines(text))
		}
	}
}

// tail is the last part of a text file, nothing if it can't be read.
func tail(path string) string {
	const most = 16 << 10
	data, _ := os.ReadFile(path)
	if len(data) > most {
		data = data[len(data)-most:]
	}
	return string(data)
}
