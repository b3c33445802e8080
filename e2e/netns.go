package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// netnsDir is where named network namespaces are mounted, as ip-netns(8) has it.
const netnsDir = "/run/netns"

// NetNS is a named network namespace.
type NetNS string

// Path is the file to enter the namespace by.
func (n NetNS) Path() string { return filepath.Join(netnsDir, string(n)) }

// Inode is the number that /proc/PID/ns/net shows for the namespace.
func (n NetNS) Inode() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(n.Path(), &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: n.Path(), Err: err}
	}
	return st.Ino, nil
}

// Do runs f on a thread that is in the namespace. Sockets that f makes stay there, whoever uses them later. The thread is
// given up when it can't be brought back.
func (n NetNS) Do(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		result <- n.doLocked(f)
	}()
	return <-result
}

// doLocked unlocks the thread only when it is back where it was; a locked thread ends with its goroutine.
func (n NetNS) doLocked(f func() error) error {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := os.Open(n.Path())
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", n, err)
	}
	err = f()
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// DialContext connects from inside the namespace. The address must be literal.
func (n NetNS) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() (err error) {
		d := net.Dialer{Timeout: 10 * time.Second, KeepAlive: -1}
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Dial is DialContext for tcp with a bound of its own. It tries again while the address is refused or doesn't answer,
// until within has passed.
func (n NetNS) Dial(address string, within time.Duration) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for {
		conn, err := n.DialContext(ctx, "tcp", address)
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(30 * time.Millisecond):
		}
	}
}

// Retransmits is how many segments this end of conn has sent again since it was opened.
func Retransmits(conn *net.TCPConn) (uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	var infoErr error
	if err := raw.Control(func(fd uintptr) { info, infoErr = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); err != nil {
		return 0, err
	}
	if infoErr != nil {
		return 0, os.NewSyscallError("getsockopt TCP_INFO", infoErr)
	}
	return info.Total_retrans, nil
}
