package stream

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// aclAccess and aclDefault are where POSIX access control lists live.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
)

// hostXattr says whether an attribute belongs to the host's policy rather than to the file: it means nothing elsewhere.
func hostXattr(name string) bool {
	switch name {
	case "security.selinux", "security.evm", "security.ima", "security.apparmor", "security.SMACK64":
		return true
	}
	return strings.HasPrefix(name, "btrfs.")
}

// none says whether an error of an xattr call means that there is no such attribute or that the file can't have any.
func none(err error) bool {
	return errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP)
}

// xattrReader reads attributes with buffers that it keeps.
type xattrReader struct {
	names, value []byte
	found        []xattr
}

// read returns the attributes of name in the directory dir, sorted by name, without following a link. The result is valid until the
// next call.
func (x *xattrReader) read(dir int, name string) ([]xattr, error) {
	if x.names == nil {
		x.names, x.value = make([]byte, 64<<10), make([]byte, maxXattrValue)
	}
	x.found = x.found[:0]
	path := procPath(dir, name)
	n, err := unix.Llistxattr(path, x.names)
	if n == 0 || err != nil && none(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list xattrs: %w", err)
	}
	total := 0
	for raw := range bytes.SplitSeq(bytes.TrimSuffix(x.names[:n], []byte{0}), []byte{0}) {
		attr := string(raw)
		if hostXattr(attr) {
			continue
		}
		size, err := unix.Lgetxattr(path, attr, x.value)
		if err != nil && none(err) {
			continue // gone since
		}
		if err != nil {
			return nil, fmt.Errorf("read xattr %s: %w", attr, err)
		}
		if total += len(attr) + size; total > maxXattrs {
			return nil, fmt.Errorf("read xattrs: more than %d bytes", maxXattrs)
		}
		x.found = append(x.found, xattr{attr, bytes.Clone(x.value[:size])})
	}
	slices.SortFunc(x.found, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	return x.found, nil
}

// writeXattrs gives name in dir exactly the attributes wanted. fresh says that it was just made and can have none but an inherited
// access control list, if its directory hands one down.
func (x *xattrReader) writeXattrs(dir int, name string, wanted []xattr, fresh, inherits bool) error {
	path := procPath(dir, name)
	if !fresh {
		present, err := x.read(dir, name)
		if err != nil {
			return err
		}
		for _, p := range present {
			if !slices.ContainsFunc(wanted, func(w xattr) bool { return w.name == p.name }) {
				if err := unix.Lremovexattr(path, p.name); err != nil && !none(err) {
					return fmt.Errorf("remove xattr %s: %w", p.name, err)
				}
			}
		}
	} else if inherits {
		for _, acl := range []string{aclAccess, aclDefault} {
			if err := unix.Lremovexattr(path, acl); err != nil && !none(err) {
				return fmt.Errorf("remove xattr %s: %w", acl, err)
			}
		}
	}
	for _, w := range wanted {
		if hostXattr(w.name) {
			continue
		}
		if err := unix.Lsetxattr(path, w.name, w.value, 0); err != nil {
			return fmt.Errorf("set xattr %s: %w", w.name, err)
		}
	}
	return nil
}
