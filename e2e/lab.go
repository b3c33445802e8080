package e2e

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// PeerPort is the port that zap serve listens on in every host.
const PeerPort = 7700

// Bridge is the name of every host's bridge.
const Bridge = "br0"

// workDir is where labs keep their files: on a disk, because upper layers are there on a real host.
const workDir = "/var/tmp"

// Lab is a switch with hosts and clients around it. Its subnet is 10.88.0.0/24 and fd88::/64: hosts from 1 on, pods from 50
// on, clients from 200 on.
type Lab struct {
	ID    string // in the names of everything that the lab makes
	Dir   string
	Hosts []*Host

	t       testing.TB
	sw      NetNS
	spaces  []NetNS
	clients int
}

// NewLab makes a switch, the hosts (alpha and beta unless others are named) and their keys. It skips the test when it is
// not root. At the end of the test everything is removed; when the test did not pass, what the hosts logged is printed.
func NewLab(t testing.TB, names ...string) *Lab {
	t.Helper()
	if len(names) == 0 {
		names = []string{"alpha", "beta"}
	}
	l := newLab(t)
	for i, name := range names {
		l.addHost(name, i+1)
	}
	l.run(Binary(t), append([]string{"keys", "init", filepath.Join(l.Dir, "keys")}, names...)...)
	return l
}

// newLab makes a switch.
func newLab(t testing.TB) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: hosts are network namespaces")
	}
	id := make([]byte, 3)
	rand.Read(id)
	// The letters make sure that no hexadecimal name of anybody else's contains it.
	l := &Lab{t: t, ID: "zq" + hex.EncodeToString(id)}
	var err error
	if l.Dir, err = os.MkdirTemp(workDir, "zap-e2e-"); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(l.Dir, 0o755); err != nil { // programs that are not root live below it
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	if err := own(l.Dir, l.ID); err != nil {
		t.Fatal(err)
	}
	if err := sweepOnce(); err != nil {
		t.Logf("remove what killed tests left: %v", err)
	}
	l.sw = l.newNetNS("sw")
	l.ip("-n", string(l.sw), "link", "add", Lan, "up", "type", "bridge", "stp_state", "0", "forward_delay", "0")
	return l
}

// Host answers with the host of that name.
func (l *Lab) Host(name string) *Host {
	l.t.Helper()
	for _, h := range l.Hosts {
		if h.Name == name {
			return h
		}
	}
	l.t.Fatalf("no host %s in the lab", name)
	return nil
}

// PodName makes a pod's name that no other lab has, so that what is left of it can be told from others'.
func (l *Lab) PodName(base string) string { return base + "-" + l.ID }

// NewClient makes a namespace with an address in the pods' subnet.
func (l *Lab) NewClient() NetNS {
	l.t.Helper()
	n := l.newNetNS(fmt.Sprintf("cli%d", l.clients))
	l.plug(n, "eth0", fmt.Sprintf("cli%d", l.clients))
	for _, a := range []string{fmt.Sprintf("10.88.0.%d/24", 200+l.clients), fmt.Sprintf("fd88::%d/64", 200+l.clients)} {
		l.ip("-n", string(n), "addr", "add", a, "dev", "eth0", "nodad")
	}
	l.clients++
	return n
}

// Path makes a path in the lab's directory.
func (l *Lab) Path(elem ...string) string { return filepath.Join(append([]string{l.Dir}, elem...)...) }

func (l *Lab) addHost(name string, number int) {
	l.t.Helper()
	h := &Host{
		Name: name, NetNS: l.newNetNS(name), Root: l.Path(name), TLS: l.Path("keys", name), lab: l, port: "h" + name,
		Addr: netip.AddrFrom4([4]byte{10, 88, 0, byte(number)}),
	}
	if err := os.Mkdir(h.Root, 0o700); err != nil {
		l.t.Fatal(err)
	}
	l.plug(h.NetNS, "up0", h.port)
	l.ip("-n", string(h.NetNS), "link", "add", Bridge, "up", "type", "bridge", "stp_state", "0", "forward_delay", "0")
	l.ip("-n", string(h.NetNS), "link", "set", "up0", "master", Bridge)
	l.ip("-n", string(h.NetNS), "addr", "add", h.Addr.String()+"/24", "dev", Bridge)
	l.ip("-n", string(h.NetNS), "addr", "add", fmt.Sprintf("fd88::%d/64", number), "dev", Bridge, "nodad")
	l.Hosts = append(l.Hosts, h)
}

// newNetNS makes a named namespace with loopback up. Addresses are good at once there, without duplicate detection.
func (l *Lab) newNetNS(name string) NetNS {
	l.t.Helper()
	n := NetNS("ze-" + l.ID + "-" + name)
	l.ip("netns", "add", string(n))
	l.spaces = append(l.spaces, n)
	if err := n.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
	}); err != nil {
		l.t.Fatal(err)
	}
	l.ip("-n", string(n), "link", "set", "lo", "up")
	return n
}

// plug joins the namespace to the switch: dev on its side, port on the switch's.
func (l *Lab) plug(n NetNS, dev, port string) {
	l.t.Helper()
	l.ip("-n", string(l.sw), "link", "add", port, "type", "veth", "peer", "name", dev, "netns", string(n))
	l.ip("-n", string(l.sw), "link", "set", port, "master", Lan, "up")
	l.ip("-n", string(n), "link", "set", dev, "up")
}

// CutLink stops every frame to and from the host, silently, as a dead switch port does: neither side sees its link go down.
func (l *Lab) CutLink(h *Host) { l.t.Helper(); l.portState(h, "disabled") }

// RestoreLink takes CutLink back.
func (l *Lab) RestoreLink(h *Host) { l.t.Helper(); l.portState(h, "forwarding") }

func (l *Lab) portState(h *Host, state string) {
	l.t.Helper()
	l.run("nsenter", "--net="+l.sw.Path(), "bridge", "link", "set", "dev", h.port, "state", state)
}

func (l *Lab) ip(args ...string) { l.t.Helper(); l.run("ip", args...) }

// run runs a command that must succeed, outside of the hosts.
func (l *Lab) run(name string, args ...string) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if r := execute(ctx, exec.CommandContext(ctx, name, args...)); r.Err != nil {
		l.t.Fatalf("%s %s: %v", name, strings.Join(args, " "), r)
	}
}

// close removes the lab: first the processes, which hold the rest.
func (l *Lab) close() {
	if l.t.Failed() {
		for _, h := range l.Hosts {
			h.printLogs()
		}
	}
	for _, h := range l.Hosts {
		h.removePods()
	}
	l.killAll()
	for _, m := range l.mounts() {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil {
			l.t.Errorf("unmount %s: %v", m, err)
		}
	}
	for _, n := range l.spaces {
		if err := unix.Unmount(n.Path(), unix.MNT_DETACH); err != nil {
			l.t.Errorf("unmount %s: %v", n.Path(), err)
		}
		os.Remove(n.Path())
	}
	l.removeCgroups()
	if l.t.Failed() && os.Getenv("ZAP_E2E_KEEP") != "" {
		disown(l.Dir)
		l.t.Logf("the lab's files are in %s", l.Dir)
		return
	}
	if err := os.RemoveAll(l.Dir); err != nil {
		l.t.Errorf("remove the lab's files: %v", err)
	}
}

// killAll ends every process below this one, children of the dead included, and waits until they are gone.
func (l *Lab) killAll() {
	deadline := time.Now().Add(20 * time.Second)
	for {
		left, err := descendants()
		if err != nil {
			l.t.Error(err)
			return
		}
		left = slices.DeleteFunc(left, func(p Process) bool { return p.State == 'Z' && p.PPid == os.Getpid() })
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			l.t.Errorf("processes that can't be killed: %v", left)
			return
		}
		for _, p := range left {
			l.thaw(p)
			if err := signalProcess(p, unix.SIGKILL); err != nil {
				l.t.Error(err)
			}
		}
		processes.reap()
		time.Sleep(20 * time.Millisecond)
	}
}

// thaw lets a process that a v1 freezer holds take its SIGKILL.
func (l *Lab) thaw(p Process) {
	for _, dir := range cgroupsOf(p.Pid) {
		if !l.owns(dir) {
			continue
		}
		state := filepath.Join(dir, "freezer.state")
		if data, err := os.ReadFile(state); err == nil && strings.TrimSpace(string(data)) != "THAWED" {
			os.WriteFile(state, []byte("THAWED"), 0)
		}
		os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("0"), 0)
	}
}
