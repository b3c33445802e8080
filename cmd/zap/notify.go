package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime"
)

// notifyInside is where a container finds the directory with its socket for sd_notify(3).
const notifyInside = "/run/notify"

// barrierWait bounds how long a service manager is waited for that does not know barriers (sd_notify_barrier(3) waits as long).
const barrierWait = 30 * time.Second

// notifier passes on what a container says to its service manager: a service manager listens to the processes that it started, and the
// container's is none of them. The socket of the container lies in its directory below --root and is mounted into it.
type notifier struct {
	host string // the service manager's socket
	dir  string // with the container's socket
	conn *net.UnixConn
}

// newNotifier returns nothing when no service manager wants to know.
func newNotifier(rt *runtime.Runtime, id string) *notifier {
	host := os.Getenv("NOTIFY_SOCKET")
	if host == "" || runtime.CheckID(id) != nil {
		return nil
	}
	return &notifier{host: host, dir: filepath.Join(rt.Dir(id), runtime.NotifyName)}
}

// prepare makes the directory and shows it to the container. The function that it returns takes it back, for a container that was not made.
func (n *notifier) prepare(s *specs.Spec) (undo func(), err error) {
	if n == nil {
		return func() {}, nil
	}
	if _, err := os.Lstat(n.dir); err == nil {
		return func() {}, nil // there is a container of this name, and create says so
	}
	if err := os.MkdirAll(filepath.Dir(n.dir), 0o711); err != nil {
		return nil, fmt.Errorf("make notify socket: %w", err)
	}
	if err := os.Mkdir(n.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make notify socket: %w", err)
	}
	s.Mounts = append(s.Mounts, specs.Mount{
		Destination: notifyInside, Type: "bind", Source: n.dir, Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"},
	})
	s.Process.Env = append(s.Process.Env, "NOTIFY_SOCKET="+notifyInside+"/notify.sock")
	return func() {
		_ = os.RemoveAll(n.dir)
		_ = os.Remove(filepath.Join(filepath.Dir(n.dir), "lock"))
		_ = os.Remove(filepath.Dir(n.dir)) // unless something else is in it
	}, nil
}

// listen makes the container's socket, which everybody may write to: who can reach it is in the container.
func (n *notifier) listen() error {
	if n == nil {
		return nil
	}
	dir, err := os.Open(n.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the container was created when no service manager wanted to know
	}
	if err != nil {
		return fmt.Errorf("make notify socket: %w", err)
	}
	defer dir.Close()
	// By the descriptor the path is short enough for a socket address, whatever --root is.
	path := fmt.Sprintf("/proc/self/fd/%d/notify.sock", dir.Fd())
	_ = os.Remove(path) // of a start that was cut off
	n.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err == nil {
		err = os.Chmod(path, 0o777)
	}
	if err != nil {
		return fmt.Errorf("make notify socket: %w", err)
	}
	return nil
}

// forward waits until the container says that it is ready, tells the service manager, and that pid is the process to watch from now on. It
// returns when that is done, or when the container's first process has ended.
func (n *notifier) forward(ctx context.Context, c *runtime.Container, pid int, log *slog.Logger) {
	if n == nil || n.conn == nil {
		return
	}
	defer n.conn.Close()
	ready, err := n.ready(ctx, c)
	if err == nil && ready != nil {
		err = n.tell(ready, pid)
	}
	if err != nil {
		log.Warn("notify", "container", c.ID(), "error", err.Error())
	}
}

// ready returns the line with READY= of the container's messages, or nothing when it has ended.
func (n *notifier) ready(ctx context.Context, c *runtime.Container) ([]byte, error) {
	message := make([]byte, 4096)
	for ctx.Err() == nil {
		if err := n.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			return nil, err
		}
		size, err := n.conn.Read(message)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if c.Status() == specs.StateStopped {
				return nil, nil
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(message[:size]) {
			if bytes.HasPrefix(line, []byte("READY=")) {
				return bytes.TrimRight(line, "\n"), nil
			}
		}
	}
	return nil, nil
}

// tell passes the message on and waits until the service manager has read it: it asks who this process is, which may end now.
func (n *notifier) tell(ready []byte, pid int) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.host, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, line := range []string{string(ready), "MAINPID=" + strconv.Itoa(pid)} {
		if _, err := conn.Write([]byte(line + "\n")); err != nil {
			return err
		}
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	raw, err := conn.SyscallConn()
	if err == nil {
		rights := unix.UnixRights(int(w.Fd()))
		var sent error
		err = raw.Write(func(fd uintptr) bool { // package net sends no descriptors over a connected datagram socket
			sent = unix.Sendmsg(int(fd), []byte("BARRIER=1"), rights, nil, 0)
			return sent != unix.EAGAIN
		})
		err = errors.Join(err, sent)
	}
	w.Close()
	if err != nil {
		return err
	}
	if err := r.SetReadDeadline(time.Now().Add(barrierWait)); err != nil {
		return err
	}
	_, _ = r.Read(make([]byte, 1)) // the end, when the service manager has closed its copy; or nothing from one that knows no barriers
	return nil
}
