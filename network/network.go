package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	mptcpPath       = sysctlRoot + "/net/mptcp/enabled"
	threadNamespace = "/proc/thread-self/ns/net"
	requestTimeout  = 10 * time.Second // of one netlink request
)

// Network is a pod's network namespace, held open, and the host's namespace beside it. Its methods
// may be called from any goroutine, one at a time.
type Network struct {
	mu   sync.Mutex
	ns   *os.File // the pod's namespace
	home *os.File // the host's

	pod  *netlink.Handle
	host *netlink.Handle
	nft  *nftables.Conn // in the pod's namespace; made when first needed

	cfg       Config
	podLink   int // index, 0: not known
	hostLink  int
	gated     bool          // this Network closed the gate
	speaker   *packetSocket // sends announcements from the pod's link
	lingers   sync.WaitGroup
	lingerErr error // of what ran in the background
}

// New makes a namespace that has no name: it lives as long as the returned Network is open or a
// process is in it. Its loopback link is up and MPTCP, which CRIU can't dump, is off. The namespace
// of the calling thread becomes the host's side.
func New() (*Network, error) {
	home, err := os.Open(threadNamespace)
	if err != nil {
		return nil, fmt.Errorf("open host's network namespace: %w", err)
	}
	var ns *os.File
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		if err := quietSysctl(mptcpPath, "0"); err != nil {
			return err
		}
		var err error
		if ns, err = os.Open(threadNamespace); err != nil {
			return fmt.Errorf("open new network namespace: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, home.Close())
	}
	n, err := open(ns, home)
	if err != nil {
		return nil, err
	}
	lo, err := n.pod.LinkByName("lo")
	if err == nil {
		err = n.pod.LinkSetUp(lo)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set link lo up: %w", err), n.Close())
	}
	return n, nil
}

// FromPID opens the network namespace of a running process, which must not be the caller's own: that is [ErrHost].
// Nothing is known of its configuration before Set or Use.
func FromPID(pid int) (*Network, error) {
	home, err := os.Open(threadNamespace)
	if err != nil {
		return nil, fmt.Errorf("open host's network namespace: %w", err)
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open network namespace of process %d: %w", pid, err), home.Close())
	}
	same, err := sameFile(home, ns)
	if err == nil && same {
		err = fmt.Errorf("open network namespace of process %d: %w", pid, ErrHost)
	}
	if err != nil {
		return nil, errors.Join(err, home.Close(), ns.Close())
	}
	return open(ns, home)
}

// open takes over both files, also when it fails.
func open(ns, home *os.File) (*Network, error) {
	n := &Network{ns: ns, home: home}
	for _, h := range []struct {
		in   *os.File
		into **netlink.Handle
	}{{ns, &n.pod}, {home, &n.host}} {
		err := inside(h.in, func() (err error) {
			*h.into, err = netlink.NewHandle(unix.NETLINK_ROUTE)
			return err
		})
		if err == nil {
			err = (*h.into).SetSocketTimeout(requestTimeout)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open netlink socket: %w", err), n.Close())
		}
	}
	return n, nil
}

// Use sets the configuration that the other methods go by without changing anything in the kernel.
func (n *Network) Use(c Config) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.use(c)
}

func (n *Network) use(c Config) {
	if n.cfg.HostLink != c.HostLink || n.cfg.link() != c.link() {
		n.podLink, n.hostLink = 0, 0
	}
	n.cfg = c.Clone()
}

// Config returns the configuration last given to Set or Use.
func (n *Network) Config() Config {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cfg.Clone()
}

// File returns the namespace, for setns(2) and CRIU; it stays the Network's own.
func (n *Network) File() *os.File { return n.ns }

// Close lets go of the namespace, which vanishes with its last process. What was set stays as long
// as it does. Close waits for what Release left running, at most a tenth of a second.
func (n *Network) Close() error {
	n.lingers.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ns == nil {
		return nil
	}
	errs := []error{n.lingerErr}
	for _, h := range []*netlink.Handle{n.pod, n.host} {
		if h != nil {
			h.Close()
		}
	}
	if n.nft != nil {
		errs = append(errs, n.nft.CloseLasting())
	}
	if n.speaker != nil {
		errs = append(errs, n.speaker.Close())
	}
	errs = append(errs, n.ns.Close(), n.home.Close())
	n.ns, n.home, n.nft, n.speaker = nil, nil, nil, nil
	return errors.Join(errs...)
}

// Remove deletes the host's end of the pair, and with it the pod's. It is no error if it is gone.
func (n *Network) Remove(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cfg.HostLink == "" {
		return nil
	}
	n.podLink, n.hostLink = 0, 0
	return removeLink(n.host, n.cfg.HostLink)
}

// RemoveLink deletes the host's end by its name, in the calling thread's namespace: the clean-up
// after a crash, which knows nothing else. It is no error if there is no such link; one that is no
// veth is left alone and reported.
func RemoveLink(name string) error {
	if err := checkLinkName(name); err != nil {
		return fmt.Errorf("delete link: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink socket: %w", err)
	}
	defer h.Close()
	return removeLink(h, name)
}

func removeLink(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if isNotFound(err) {
		return nil
	}
	if err == nil && link.Type() != "veth" {
		return fmt.Errorf("delete link %s: it is of type %s, not veth", name, link.Type())
	}
	if err == nil {
		err = h.LinkDel(link)
	}
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

func isNotFound(err error) bool {
	var gone netlink.LinkNotFoundError
	return errors.As(err, &gone) || errors.Is(err, unix.ENODEV)
}

func sameFile(a, b *os.File) (bool, error) {
	ia, err := a.Stat()
	if err != nil {
		return false, err
	}
	ib, err := b.Stat()
	if err != nil {
		return false, err
	}
	return os.SameFile(ia, ib), nil
}

// onThread runs f on an OS thread of its own that ends with it, so f may change the thread's
// namespace. It is never the process's first thread: that one does not end, and /proc/PID shows its
// namespaces as the process's.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			done <- onThread(f) // elsewhere, as long as this thread is taken
			runtime.UnlockOSThread()
			return
		}
		done <- f() // not unlocked: the thread ends with the goroutine
	}()
	return <-done
}

// inside runs f on a thread that is in the network namespace ns.
func inside(ns *os.File, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}
