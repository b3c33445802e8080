package preflight

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// States of sockets, from the kernel's tcp_states.h.
const (
	stateEstablished = 1
	stateClose       = 7
	stateListen      = 10
)

const (
	hintPeer  = "close it before the move, or run its other end in the pod"
	hintAgain = "try again in a moment"
)

// judgeUnixSockets judges the pod's unix sockets, when all are known: whether their other ends are among them.
func (s *scan) judgeUnixSockets() error {
	if len(s.sockets) == 0 {
		return nil
	}
	all, err := unixSockets(s.net.fd)
	if errors.Is(err, unix.ENOENT) {
		return nil // needDiag has reported it
	}
	if err != nil {
		return err
	}
	listeners := map[uint32]uint32{} // by who waits for them
	for ino, info := range all {
		for _, w := range info.waiting {
			listeners[w] = ino
		}
	}
	for _, ino := range slices.SortedFunc(maps.Keys(s.sockets), func(a, b uint64) int { return cmp.Compare(a, b) }) {
		one := s.sockets[ino]
		f := one.about
		f.code, f.what = BlockUnix, fmt.Sprintf("socket:[%d]", ino)
		info := all[uint32(ino)]
		if info == nil {
			s.judgeForeign(f, uint32(ino))
			continue
		}
		s.judgeUnixState(f, info, one.passCred)
		s.judgePeer(f, uint32(ino), info, all, listeners)
	}
	return nil
}

// judgeForeign reports a unix socket that was made in another network namespace. CRIU does not find those.
func (s *scan) judgeForeign(f finding, ino uint32) {
	f.detail, f.hint = "it belongs to another network namespace than the pod's", "close it before the move"
	if info := s.hostSocket(ino); info != nil && info.peer != 0 && s.sockets[uint64(info.peer)] == nil {
		f.hint = hintPeer
		f.detail = fmt.Sprintf("its other end is outside the pod%s (socket:[%d])", named(s.hostSocket(info.peer)), info.peer)
	}
	s.add(f)
}

// hostSocket returns what is known of a unix socket in the network namespace of this process, or nil.
func (s *scan) hostSocket(ino uint32) *unixInfo {
	if s.host == nil {
		s.host = map[uint32]*unixInfo{}
		if fd, err := diagSocket(nil); err == nil {
			if all, err := unixSockets(fd); err == nil {
				s.host = all
			}
			unix.Close(fd)
		}
	}
	return s.host[ino]
}

// judgeUnixState judges a unix socket by itself.
func (s *scan) judgeUnixState(f finding, info *unixInfo, passCred bool) {
	f.passing, f.hint = true, hintAgain
	switch {
	case info.state != stateEstablished && info.state != stateClose && info.state != stateListen:
		f.detail = fmt.Sprintf("CRIU can't save it in state %d", info.state)
	case info.state == stateListen && slices.Contains(info.waiting, 0):
		f.detail = "a connection that waits to be accepted was closed again, which CRIU can't save"
		f.hint = "try again when the program has accepted it"
	case info.state != stateListen && info.unread > 0 && passCred:
		f.detail = "messages with their senders' identities (SO_PASSCRED) wait in it to be read, which CRIU can't save"
		f.hint = "try again when the program has read them"
	default:
		return
	}
	s.add(f)
}

// judgePeer judges the other end of a unix socket.
func (s *scan) judgePeer(f finding, ino uint32, info *unixInfo, all map[uint32]*unixInfo, listeners map[uint32]uint32) {
	if info.peer != 0 {
		peer := all[info.peer]
		switch {
		case peer == nil || s.sockets[uint64(info.peer)] == nil:
			if peer == nil {
				peer = s.hostSocket(info.peer)
			}
			f.hint = hintPeer
			f.detail = fmt.Sprintf("its other end is outside the pod%s (socket:[%d])", named(peer), info.peer)
		case peer.peer != ino && peer.name == "":
			f.hint = hintPeer
			f.detail = "it is connected to a socket without a name, which is not connected to it"
		default:
			return
		}
		s.add(f)
		return
	}
	if info.state != stateEstablished || info.kind == unix.SOCK_DGRAM {
		return
	}
	listener, waits := listeners[ino]
	switch {
	case waits && s.sockets[uint64(listener)] == nil:
		f.detail, f.hint = "it waits to be accepted outside the pod"+named(all[listener]), hintPeer
	case waits && info.unsent > 0:
		f.passing, f.detail = true, "it has sent data and was not accepted yet, which CRIU can't save"
		f.hint = "try again when the connection is accepted"
	case !waits && info.shutdown != 3: // 3: in both directions
		f.passing, f.detail, f.hint = true, "its other end is not accepted yet, or outside the pod", hintPeer
	default:
		return
	}
	s.add(f)
}

// named says what a socket is called.
func named(info *unixInfo) string {
	if info == nil || info.name == "" {
		return ""
	}
	return ", at " + info.name
}
