package runtime

import (
	goruntime "runtime"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostLinks lists the names of the devices in this thread's network namespace.
func hostLinks(t *testing.T) string {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return strings.Join(names, " ")
}

// TestNetDevices lends a container devices of a host that is a network namespace of this test's own.
func TestNetDevices(t *testing.T) {
	l := newLab(t)
	goruntime.LockOSThread() // for good: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{"one", "oneb"}, {"two", "twob"}} {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: pair[0], MTU: 1400}, PeerName: pair[1]}); err != nil {
			t.Fatal(err)
		}
	}
	one, err := netlink.LinkByName("one")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"10.9.8.7/24", "fd00::7/64", "169.254.3.4/16"} {
		address, err := netlink.ParseAddr(text)
		if err != nil {
			t.Fatal(err)
		}
		address.Flags = unix.IFA_F_NODAD
		if strings.HasPrefix(text, "169") {
			address.Scope = unix.RT_SCOPE_LINK
		}
		if err := netlink.AddrAdd(one, address); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetUp(one); err != nil {
		t.Fatal(err)
	}
	b := l.bundle("cat /sys/class/net/eth7/mtu /sys/class/net/eth7/address /sys/class/net/lan0/flags /sys/class/net/eth7/flags; cat /proc/net/fib_trie /proc/net/if_inet6")
	b.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"one": {Name: "eth7"}, "two": {Name: "lan%d"}}
	out, code := l.run(b)
	if code != 0 || !strings.HasPrefix(out, "1400\n"+one.Attrs().HardwareAddr.String()+"\n0x1003\n0x1003\n") {
		t.Errorf("%d, %q", code, out)
	}
	for text, want := range map[string]bool{"10.9.8.7": true, "fd000000000000000000000000000007": true, "169.254.3.4": false} {
		if strings.Contains(out, text) != want {
			t.Errorf("address %s: want %v in\n%s", text, want, out)
		}
	}
}

// TestNetDevicesGoBack wants a failed creation to leave the host's devices where they were, addresses and all.
func TestNetDevicesGoBack(t *testing.T) {
	l := newLab(t)
	goruntime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "one"}, PeerName: "oneb"}); err != nil {
		t.Fatal(err)
	}
	one, err := netlink.LinkByName("one")
	if err != nil {
		t.Fatal(err)
	}
	address, err := netlink.ParseAddr("10.9.8.7/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(one, address); err != nil {
		t.Fatal(err)
	}
	before := hostLinks(t)
	b := l.bundle("true")
	for want, change := range map[string]func(){
		"move network device zero: Link not found (config.json: linux.netDevices.zero)": func() {
			b.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"one": {Name: "eth0"}, "zero": {}}
		},
		"move network device one: to namespace as lo: file exists (config.json: linux.netDevices.one)": func() {
			b.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"one": {Name: "lo"}}
		},
		"error running createRuntime hook #0": func() {
			b.Spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"one": {Name: "eth0"}}
			b.Spec.Hooks = &specs.Hooks{CreateRuntime: shellHook("exit 1")}
		},
	} {
		b.Spec.Hooks = nil
		change()
		if _, err := l.runtime.Run(l.ctx, "fails", b, CreateOptions{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		if after := hostLinks(t); len(after) != len(before) || !strings.Contains(after, "one ") && !strings.HasSuffix(after, "one") {
			t.Fatalf("devices %q, were %q", after, before)
		}
		again, err := netlink.LinkByName("one")
		if err != nil {
			t.Fatal(err)
		}
		if list, err := netlink.AddrList(again, netlink.FAMILY_V4); err != nil || len(list) != 1 {
			t.Errorf("addresses %v, %v", list, err)
		}
	}
}
