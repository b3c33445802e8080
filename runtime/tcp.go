package runtime

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/zap-migrate/zap/network"
)

// tcpSockets are the TCP sockets of a container, which may share its network namespace with others.
type tcpSockets struct {
	connections []network.Connection
	listening   []uint16 // ports
}

// States of TCP, as /proc/net/tcp has them.
const (
	tcpTimeWait = "06"
	tcpListen   = "0A"
)

// tcpRow is a line of /proc/net/tcp or tcp6.
type tcpRow struct {
	ends  network.Connection
	state string
	inode string // "0" for a socket that nobody has accepted yet
}

// tcpSocketsOf finds the TCP sockets that the processes have open, and the connections to their listeners that are not accepted yet.
func tcpSocketsOf(init int, pids []int) (tcpSockets, error) {
	var t tcpSockets
	own := map[string]bool{}
	for _, pid := range pids {
		addSockets(own, pid)
	}
	if len(own) == 0 {
		return t, nil
	}
	var rows []tcpRow
	for _, name := range []string{"tcp", "tcp6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", init, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return t, fmt.Errorf("look at TCP sockets: %w", err)
		}
		more, err := parseTCP(f)
		f.Close()
		if err != nil {
			return t, fmt.Errorf("look at TCP sockets: read %s: %w", f.Name(), err)
		}
		rows = append(rows, more...)
	}
	ports := map[uint16]bool{}
	for _, r := range rows {
		if port := r.ends.Local.Port(); r.state == tcpListen && own[r.inode] && !ports[port] {
			ports[port] = true
			t.listening = append(t.listening, port)
		}
	}
	for _, r := range rows {
		mine := own[r.inode] || r.inode == "0" && ports[r.ends.Local.Port()]
		if mine && r.state != tcpListen && r.state != tcpTimeWait && r.ends.Remote.Port() != 0 {
			t.connections = append(t.connections, r.ends)
		}
	}
	return t, nil
}

// addSockets notes the inodes of the sockets that a process has open. One that has ended has none.
func addSockets(own map[string]bool, pid int) {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	names, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, n := range names {
		link, err := os.Readlink(filepath.Join(dir, n.Name()))
		if inode, ok := strings.CutPrefix(link, "socket:["); ok && err == nil {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
}

// parseTCP reads /proc/net/tcp or tcp6 (proc(5)).
func parseTCP(r io.Reader) ([]tcpRow, error) {
	var rows []tcpRow
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[0] == "sl" {
			continue
		}
		local, err := parseTCPEnd(f[1])
		if err != nil {
			return nil, err
		}
		remote, err := parseTCPEnd(f[2])
		if err != nil {
			return nil, err
		}
		rows = append(rows, tcpRow{ends: network.Connection{Local: local, Remote: remote}, state: f[3], inode: f[9]})
	}
	return rows, lines.Err()
}

// parseTCPEnd reads an address and port: words of 32 bits as numbers of this machine, in hexadecimal.
func parseTCPEnd(s string) (netip.AddrPort, error) {
	bad := fmt.Errorf("%q is no address", s)
	words, portText, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(words)
	if err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, bad
	}
	port, err := strconv.ParseUint(portText, 16, 16)
	if err != nil {
		return netip.AddrPort{}, bad
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	a, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.AddrPort{}, bad
	}
	return netip.AddrPortFrom(a, uint16(port)), nil
}
