package network

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

func TestParseFlag(t *testing.T) {
	for _, tt := range []struct {
		flag string
		want Config
		err  string // a part of it
	}{
		{flag: "bridge=br0,ip=10.0.0.2/24,mac=02:00:00:00:00:01,gateway=10.0.0.1", want: Config{
			Bridge: "br0", Link: "eth0", MAC: "02:00:00:00:00:01", Addresses: []netip.Prefix{prefix("10.0.0.2/24")}, Gateways: []netip.Addr{addr("10.0.0.1")},
		}},
		{flag: "ip=fd00::2/64,ip=10.0.0.2/32,bridge=br0,mac=02-00-00-00-00-AB,gateway=fe80::1,gateway=10.9.9.9,mtu=9000", want: Config{
			Bridge: "br0", Link: "eth0", MAC: "02:00:00:00:00:ab", MTU: 9000,
			Addresses: []netip.Prefix{prefix("fd00::2/64"), prefix("10.0.0.2/32")}, Gateways: []netip.Addr{addr("fe80::1"), addr("10.9.9.9")},
		}},
		{flag: "", err: `"" is not of the form key=value`},
		{flag: "bridge=br0", err: "ip= is missing"},
		{flag: "ip=10.0.0.2/24", err: "bridge= is missing"},
		{flag: "bridge=br0,ip=10.0.0.2", err: `ip "10.0.0.2" is not an address with its prefix length`},
		{flag: "bridge=br0,ip=10.0.0.0/24", err: "is the network's address"},
		{flag: "bridge=br0,ip=224.0.0.1/24", err: "is not a host's address"},
		{flag: "bridge=br0,ip=0.0.0.0/0", err: "is not a host's address"},
		{flag: "bridge=br0,ip=10.0.0.2/24,ip=10.0.0.2/16", err: "ip 10.0.0.2 is given twice"},
		{flag: "bridge=br0,ip=10.0.0.2/24,mac=01:00:00:00:00:01", err: `mac "01:00:00:00:00:01" is not the address of one`},
		{flag: "bridge=br0,ip=10.0.0.2/24,mac=02:00", err: `mac "02:00"`},
		{flag: "bridge=br0,ip=10.0.0.2/24,gateway=fd00::1", err: "of a family that no ip= has"},
		{flag: "bridge=br0,ip=10.0.0.2/24,gateway=10.0.0.1,gateway=10.0.0.3", err: "same family"},
		{flag: "bridge=br0,ip=10.0.0.2/24,gateway=router", err: `gateway "router"`},
		{flag: "bridge=br0,bridge=br1,ip=10.0.0.2/24", err: "bridge is given twice"},
		{flag: "bridge=a/b,ip=10.0.0.2/24", err: `link name "a/b"`},
		{flag: "bridge=br0,ip=10.0.0.2/24,mtu=12x", err: `mtu "12x"`},
		{flag: "bridge=br0,ip=10.0.0.2/24,vlan=3", err: `unknown key "vlan"`},
	} {
		t.Run(tt.flag, func(t *testing.T) {
			got, err := ParseFlag(tt.flag)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.HasPrefix(err.Error(), "parse network ") {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(*got, tt.want) {
				t.Fatalf("got %#v, %v, want %#v", got, err, tt.want)
			}
		})
	}
}

func TestParseFlagMakesMAC(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		c, err := ParseFlag("bridge=br0,ip=10.0.0.2/24")
		if err != nil {
			t.Fatal(err)
		}
		mac, err := parseMAC(c.MAC)
		if err != nil || mac[0]&3 != 2 {
			t.Fatalf("mac %s is not that of one locally administered device: %v", c.MAC, err)
		}
		if seen[c.MAC] {
			t.Fatalf("mac %s came twice", c.MAC)
		}
		seen[c.MAC] = true
	}
}

func fullConfig() Config {
	return Config{
		Bridge: "br0", HostLink: "zap1", Link: "net.1", MAC: "02:00:00:00:00:01", MTU: 1400,
		Addresses: []netip.Prefix{prefix("10.0.0.2/24"), prefix("fd00::2/64")},
		Gateways:  []netip.Addr{addr("10.0.0.1"), addr("fe80::1")},
		Routes: []Route{
			{Destination: prefix("10.9.0.0/16"), Gateway: addr("10.8.0.1"), Source: addr("10.0.0.2"), Metric: 7, Table: 100, MTU: 1300, AdvMSS: 1200, InitCwnd: 20, OnLink: true},
			{Destination: prefix("10.8.0.0/16")},
		},
		Neighbours: []Neighbour{{Address: addr("10.0.0.1"), MAC: "02:00:00:00:00:99", Permanent: true}, {Address: addr("fe80::1"), MAC: "02:00:00:00:00:98", Router: true}},
		Sysctls:    map[string]string{"net.core.somaxconn": "99", "net.ipv4.conf.net/1.forwarding": "1", "net.ipv4.conf.all.forwarding": "1"},
	}
}

func TestConfigCommands(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    Config
		want string
	}{
		{"empty", Config{HostLink: "zap0"}, `
ip link add zap0 address fe:ff:$RANDOM type veth peer name eth0 netns pod
sysctl net.ipv6.conf.zap0.disable_ipv6=1
nsenter pod sysctl net.ipv6.conf.eth0.accept_dad=0
ip link set zap0 up
ip -n pod link set eth0 up
`},
		{"full", fullConfig(), `
ip link add zap1 address fe:ff:$RANDOM mtu 1400 type veth peer name net.1 netns pod address 02:00:00:00:00:01 mtu 1400
sysctl net.ipv6.conf.zap1.disable_ipv6=1
nsenter pod sysctl net.ipv6.conf.net/1.accept_dad=0
nsenter pod sysctl net.ipv4.conf.all.forwarding="1"
nsenter pod sysctl net.core.somaxconn="99"
nsenter pod sysctl net.ipv4.conf.net/1.forwarding="1"
ip link set zap1 up
ip -n pod link set net.1 up
ip -n pod addr replace 10.0.0.2/24 dev net.1 nodad
ip -n pod addr replace fd00::2/64 dev net.1 nodad
ip -n pod route replace 10.8.0.0/16 dev net.1
ip -n pod route replace 10.9.0.0/16 via 10.8.0.1 src 10.0.0.2 metric 7 table 100 mtu 1300 advmss 1200 initcwnd 20 onlink dev net.1
ip -n pod route replace default via 10.0.0.1 dev net.1
ip -6 -n pod route replace default via fe80::1 dev net.1
ip -n pod neigh replace 10.0.0.1 lladdr 02:00:00:00:00:99 nud permanent dev net.1
ip -n pod neigh replace fe80::1 lladdr 02:00:00:00:00:98 router nud stale dev net.1
ip link set zap1 master br0
`},
		{"gateway off the link", Config{HostLink: "z", MAC: "fe:00:00:00:00:01", Addresses: []netip.Prefix{prefix("10.0.0.2/32")}, Gateways: []netip.Addr{addr("10.9.9.9")}}, `
ip link add z address fe:ff:$RANDOM type veth peer name eth0 netns pod address fe:00:00:00:00:01
sysctl net.ipv6.conf.z.disable_ipv6=1
nsenter pod sysctl net.ipv6.conf.eth0.accept_dad=0
ip link set z up
ip -n pod link set eth0 up
ip -n pod addr replace 10.0.0.2/32 dev eth0 nodad
ip -n pod route replace default via 10.9.9.9 onlink dev eth0
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.c.Validate(); err != nil {
				t.Fatal(err)
			}
			if got, want := tt.c.String(), tt.want[1:]; got != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

func TestPlanIsTheDifference(t *testing.T) {
	c := fullConfig()
	c.Link = "eth0"
	c.Sysctls = map[string]string{"net.core.somaxconn": "99"}
	settled := func() state {
		return state{
			paired: true, linkUp: true, hostUp: true, mac: "02:00:00:00:00:01", mtu: 1400, hostMTU: 1400,
			addresses: slices.Clone(c.Addresses), routes: c.allRoutes(), neighbours: slices.Clone(c.Neighbours), sysctls: map[string]string{"net.core.somaxconn": "99"},
		}
	}
	for _, tt := range []struct {
		name   string
		change func(*state)
		want   []string
	}{
		{"nothing", func(*state) {}, nil},
		{"other neighbours stay", func(s *state) {
			s.neighbours = append(s.neighbours, Neighbour{Address: addr("10.0.0.7"), MAC: "02:00:00:00:00:07"})
		}, nil},
		{
			"address", func(s *state) { s.addresses[1] = prefix("fd00::3/64") },
			[]string{"ip -n pod addr delete fd00::3/64 dev eth0", "ip -n pod addr replace fd00::2/64 dev eth0 nodad"},
		},
		{
			"route", func(s *state) { s.routes = append(s.routes[1:], Route{Destination: prefix("10.7.0.0/16")}) },
			[]string{"ip -n pod route delete 10.7.0.0/16 dev eth0", "ip -n pod route replace default via 10.0.0.1 dev eth0"},
		},
		{"mac", func(s *state) { s.mac = "02:00:00:00:00:02" }, []string{"ip -n pod link set eth0 address 02:00:00:00:00:01"}},
		{"mtu", func(s *state) { s.mtu, s.hostMTU = 1500, 1500 }, []string{"ip -n pod link set eth0 mtu 1400", "ip link set zap1 mtu 1400"}},
		{"down", func(s *state) { s.linkUp, s.hostUp = false, false }, []string{"ip link set zap1 up", "ip -n pod link set eth0 up"}},
		{"sysctl", func(s *state) { s.sysctls = nil }, []string{`nsenter pod sysctl net.core.somaxconn="99"`}},
		{"stale host link", func(s *state) { *s = state{stale: true, sysctls: s.sysctls} }, append([]string{"ip link delete zap1"}, freshWithout(c, "sysctl net.core", "master")...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			have := settled()
			tt.change(&have)
			var got []string
			for _, s := range plan(have, c) {
				got = append(got, s.String())
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// freshWithout returns the commands for a fresh namespace but for those with one of the words.
func freshWithout(c Config, words ...string) []string {
	return slices.DeleteFunc(c.Commands(), func(s string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(s, w) })
	})
}

func TestValidate(t *testing.T) {
	if err := fullConfig().Validate(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		change func(*Config)
		err    string
	}{
		{func(c *Config) { c.HostLink = "" }, "hostLink is empty"},
		{func(c *Config) { c.HostLink = "sixteen-bytes-xx" }, `link name "sixteen-bytes-xx"`},
		{func(c *Config) { c.Link = "../x" }, `link name "../x"`},
		{func(c *Config) { c.Link = "lo" }, "loopback"},
		{func(c *Config) { c.MAC = "ff:ff:ff:ff:ff:ff" }, "mac"},
		{func(c *Config) { c.MTU = 70000 }, "mtu 70000"},
		{func(c *Config) { c.Addresses = []netip.Prefix{{}} }, "address invalid Prefix"},
		{func(c *Config) { c.Addresses = []netip.Prefix{prefix("::ffff:10.0.0.1/120")} }, "is not a host's"},
		{func(c *Config) { c.Addresses = make([]netip.Prefix, maxAddresses+1) }, "too many entries"},
		{func(c *Config) { c.Gateways = []netip.Addr{{}} }, "gateway invalid IP"},
		{func(c *Config) { c.Routes = []Route{{}} }, "has no destination"},
		{func(c *Config) { c.Routes = []Route{{Destination: prefix("10.0.0.1/8")}} }, "host bits"},
		{func(c *Config) { c.Routes = []Route{{Destination: prefix("10.0.0.0/8"), Gateway: addr("fd00::1")}} }, "not of its family"},
		{func(c *Config) { c.Routes = []Route{{Destination: prefix("10.0.0.0/8"), Metric: -1}} }, "negative"},
		{func(c *Config) { c.Neighbours[0].MAC = "x" }, "neighbour 10.0.0.1: mac"},
		{func(c *Config) { c.Sysctls = map[string]string{"kernel.core_pattern": "|x"} }, "not one of a network namespace"},
		{func(c *Config) { c.Sysctls = map[string]string{"net.//.kernel": "x"} }, "malformed"},
		{func(c *Config) { c.Sysctls = map[string]string{"net...": "x"} }, "malformed"},
		{func(c *Config) { c.Sysctls = map[string]string{"net.core.somaxconn": "1\n2"} }, "not one line"},
	} {
		c := fullConfig()
		tt.change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("error %v, want one with %q", err, tt.err)
		}
	}
	bad := Config{Link: "lo", MTU: 1}
	if err := bad.Validate(); err == nil || strings.Count(err.Error(), "check network config: ") != 3 {
		t.Errorf("error %v, want all three", err)
	}
}

func TestSysctlPathStaysInside(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.conf.eth0/100.rp_filter": "/proc/sys/net/ipv4/conf/eth0.100/rp_filter",
		"net.ipv4.conf.//.x":               "",
		"net./.x.y":                        "",
		"net.ipv4.//x":                     "/proc/sys/net/ipv4/..x",
		"kernel.x.y":                       "",
		"net.x":                            "",
	} {
		if got, err := sysctlPath(name); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestCloneEqualJSON(t *testing.T) {
	c := fullConfig()
	d := c.Clone()
	if !c.Equal(d) {
		t.Error("a clone is not equal")
	}
	d.Addresses[0], d.Sysctls["net.core.somaxconn"] = prefix("10.0.0.9/24"), "1"
	if !c.Equal(fullConfig()) {
		t.Error("changing a clone changed the original")
	}
	e := c.Clone()
	slices.Reverse(e.Routes)
	e.MAC = strings.ToUpper(e.MAC)
	if !c.Equal(e) {
		t.Error("order of routes or case of the mac matters")
	}
	for i, change := range []func(*Config){
		func(c *Config) { c.Bridge = "" }, func(c *Config) { c.HostLink = "" }, func(c *Config) { c.Link = "" }, func(c *Config) { c.MAC = "" },
		func(c *Config) { c.MTU++ }, func(c *Config) { c.Addresses = c.Addresses[1:] }, func(c *Config) { c.Gateways = nil },
		func(c *Config) { c.Routes[0].Metric++ }, func(c *Config) { c.Neighbours[0].Permanent = false }, func(c *Config) { c.Sysctls["net.x.y"] = "" },
	} {
		d := c.Clone()
		change(&d)
		if c.Equal(d) || d.Equal(c) {
			t.Errorf("change %d goes unseen", i)
		}
	}
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var back Config
	if err := json.Unmarshal(b, &back); err != nil || !back.Equal(c) {
		t.Errorf("%s came back as %v, %v", b, back, err)
	}
	if b, err := json.Marshal(Config{}); err != nil || string(b) != "{}" {
		t.Errorf("an empty config is %s, %v", b, err)
	}
}

func TestChangedSysctls(t *testing.T) {
	have := map[string]string{
		"net.core.somaxconn": "99", "net.ipv4.tcp_sack": "1", "net.ipv4.conf.eth0.forwarding": "1", "net.ipv4.conf.default.forwarding": "0",
		"net.ipv4.conf.eth0.rp_filter": "2", "net.ipv4.conf.default.rp_filter": "2", "net.ipv4.neigh.eth0.locktime": "5", "net.ipv4.neigh.eth0.app_solicit": "0",
	}
	fresh := map[string]string{
		"net.core.somaxconn": "4096", "net.ipv4.tcp_sack": "1", "net.ipv4.conf.default.forwarding": "0", "net.ipv4.conf.default.rp_filter": "0",
		"net.ipv4.neigh.lo.locktime": "100", "net.ipv4.neigh.lo.app_solicit": "0",
	}
	const want = "map[net.core.somaxconn:99 net.ipv4.conf.default.rp_filter:2 net.ipv4.conf.eth0.forwarding:1 net.ipv4.neigh.eth0.locktime:5]"
	if got, strange := changedSysctls(have, fresh, "eth0"); fmt.Sprint(got) != want || strange {
		t.Errorf("got %v, %v, want %s", got, strange, want)
	}
	have["net.unknown.x"] = "3"
	if got, strange := changedSysctls(have, fresh, "eth0"); fmt.Sprint(got) != want || !strange {
		t.Errorf("with one that is not known: got %v, %v, want %s", got, strange, want)
	}
}
