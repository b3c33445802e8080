package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"
)

// Fields of CRIU's images (images/*.proto) beside those that are changed elsewhere.
const (
	fieldMountID     = 2
	fieldMountParent = 4
	fieldMountPoint  = 7
	fieldFileSocket  = 4 // file_entry.isk
	fieldSockFamily  = 3
	fieldSockProto   = 5
	fieldSockState   = 6
	fieldSockPorts   = 7  // source; the next is the destination's
	fieldSockAddrs   = 11 // likewise
	fieldNetnsKey    = 8
	netnsMagic       = 0x55933752
	netnsPrefix      = "netns-"
	tcpListen        = 10 // TCP_LISTEN
	tcpClose         = 7  // TCP_CLOSE
)

// ImageMount is a mount in the images of a dump.
type ImageMount struct {
	ID, Parent int
	Target     string // absolute
	Key        string // not empty: it is external, and the restore has to be told under this key what takes its place
}

// ReadMounts returns the mounts of all mount namespaces in the images in dir, in
// the order in which they were found.
func ReadMounts(dir string) ([]ImageMount, error) {
	var all []ImageMount
	err := readImages(dir, mountsPrefix, mountsMagic, errMountImage, func(entry []byte) error {
		var m ImageMount
		err := fields(entry, func(number protowire.Number, value uint64, text []byte) {
			switch number {
			case fieldMountID:
				m.ID = int(value)
			case fieldMountParent:
				m.Parent = int(value)
			case fieldMountPoint:
				m.Target = path.Join("/", string(text))
			case fieldExternalKey:
				m.Key = string(text)
			}
		})
		all = append(all, m)
		return err
	})
	return all, err
}

// Connection is a TCP connection: the address here and the peer's.
type Connection struct{ Local, Remote netip.AddrPort }

// ReadConnections returns the established TCP connections in the images in dir,
// those that are being closed included.
func ReadConnections(dir string) ([]Connection, error) {
	var all []Connection
	err := readImages(dir, filesImageName, filesMagic, errFileImage, func(entry []byte) error {
		return fields(entry, func(number protowire.Number, _ uint64, message []byte) {
			if number != fieldFileSocket {
				return
			}
			if c, ok := connection(message); ok {
				all = append(all, c)
			}
		})
	})
	return all, err
}

// connection reads an inet_sk_entry.
func connection(message []byte) (c Connection, ok bool) {
	var family, proto, state uint64
	var ports [2]uint64
	var addrs [2][]byte
	err := fields(message, func(number protowire.Number, value uint64, _ []byte) {
		switch number {
		case fieldSockFamily:
			family = value
		case fieldSockProto:
			proto = value
		case fieldSockState:
			state = value
		case fieldSockPorts, fieldSockPorts + 1:
			ports[number-fieldSockPorts] = value
		case fieldSockAddrs, fieldSockAddrs + 1:
			i := number - fieldSockAddrs
			addrs[i] = binary.NativeEndian.AppendUint32(addrs[i], uint32(value)) // each word as it is in the packet
		}
	})
	if err != nil || proto != unix.IPPROTO_TCP || state == tcpListen || state == tcpClose || ports[1] == 0 {
		return c, false
	}
	ends := [2]*netip.AddrPort{&c.Local, &c.Remote}
	for i, words := range addrs {
		if family == unix.AF_INET && len(words) > 4 {
			words = words[:4]
		}
		a, ok := netip.AddrFromSlice(words)
		if !ok {
			return c, false
		}
		*ends[i] = netip.AddrPortFrom(a, uint16(ports[i]))
	}
	return c, true
}

// ReadNetworkKey returns the key under which the images in dir have an external
// network namespace; "" when they have none.
func ReadNetworkKey(dir string) (string, error) {
	key := ""
	err := readImages(dir, netnsPrefix, netnsMagic, errors.New("not an image of a network namespace"), func(entry []byte) error {
		return fields(entry, func(number protowire.Number, _ uint64, text []byte) {
			if number == fieldNetnsKey {
				key = string(text)
			}
		})
	})
	return key, err
}

// readImages calls read with every entry of the images whose names begin with
// prefix. That there is none is no error.
func readImages(dir, prefix string, magic uint32, malformed error, read func(entry []byte) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read images: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || !strings.HasSuffix(e.Name(), ".img") {
			continue
		}
		data, err := readImage(filepath.Join(dir, e.Name()))
		if err != nil {
			return fmt.Errorf("read image: %w", err)
		}
		if len(data) < 8 || binary.LittleEndian.Uint32(data) != commonMagic || binary.LittleEndian.Uint32(data[4:]) != magic {
			return fmt.Errorf("read image %s: %w", e.Name(), malformed)
		}
		_, err = mapEntries(data, malformed, func(entry []byte) ([]byte, error) { return nil, read(entry) })
		if err != nil {
			return fmt.Errorf("read image %s: %w", e.Name(), err)
		}
	}
	return nil
}

// readImage reads a regular file of a size that images have.
func readImage(name string) ([]byte, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFilesImage {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	}
	return os.ReadFile(name)
}

// fields calls f with the value of each field of a message, a number or bytes.
func fields(message []byte, f func(number protowire.Number, value uint64, text []byte)) error {
	for rest := message; len(rest) > 0; {
		number, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return protowire.ParseError(n)
		}
		rest = rest[n:]
		switch typ {
		case protowire.VarintType:
			var v uint64
			if v, n = protowire.ConsumeVarint(rest); n >= 0 {
				f(number, v, nil)
			}
		case protowire.BytesType:
			var text []byte
			if text, n = protowire.ConsumeBytes(rest); n >= 0 {
				f(number, 0, text)
			}
		default:
			n = protowire.ConsumeFieldValue(number, typ, rest)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		rest = rest[n:]
	}
	return nil
}
