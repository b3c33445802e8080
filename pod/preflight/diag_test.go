package preflight

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDiagFor(t *testing.T) {
	for want, list := range map[string][]options{
		"unix_diag":      {{unix.AF_UNIX, unix.SOCK_STREAM, 0}},
		"tcp_diag":       {{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP}, {unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP}},
		"udp_diag":       {{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP}, {unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP}},
		"af_packet_diag": {{unix.AF_PACKET, unix.SOCK_RAW, 0x300}},
		"": {
			{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP}, {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP}, {unix.AF_VSOCK, unix.SOCK_STREAM, 0},
		},
	} {
		for _, o := range list {
			got := ""
			if m := diagFor(o); m != nil {
				got = m.name
			}
			if got != want {
				t.Errorf("%+v: %q, want %q", o, got, want)
			}
		}
	}
}

// TestMissingDiag asks this kernel, which other tests of this package ask about unix sockets.
func TestMissingDiag(t *testing.T) {
	if missing := MissingDiag(); slices.Contains(missing, "unix_diag") {
		t.Errorf("%v", missing)
	}
	if m := (diagModule{"no_such_diag", 45, 0}); m.present() {
		t.Error("there is a module for a family that nobody has")
	}
}
