package stream

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"

	"golang.org/x/sys/unix"
)

// Digest returns "sha256:" and 64 hexadecimal digits that stand for the content of the tree at root: names, types, permissions, owners,
// link targets, device numbers, extended attributes but for those of the host's policy, which names are hard links of each other, file
// content, and the modification times of regular files in whole seconds. Times of anything else, access and change times, inode numbers,
// holes and a directory's size do not count, so the same layer unpacked on two hosts has the same digest. PROTOCOL.md has the exact form.
func Digest(root string) (string, error) {
	x, err := Scan(root)
	if err != nil {
		return "", err
	}
	b, err := openBeneath(root)
	if err != nil {
		return "", err
	}
	defer b.close()
	d := digester{b: b, sum: sha256.New(), buf: make([]byte, 256<<10), links: make(map[inode]string)}
	for i := range x.Entries {
		if err := d.entry(&x.Entries[i]); err != nil {
			return "", fmt.Errorf("digest %s: %s: %w", root, x.Entries[i].Path, err)
		}
	}
	return "sha256:" + hex.EncodeToString(d.sum.Sum(nil)), nil
}

// digester is one run of Digest.
type digester struct {
	b     *beneath
	sum   hash.Hash
	buf   []byte
	line  []byte
	attrs xattrReader
	links map[inode]string
}

// entry adds one entry: the node or link record that would be sent for it, with what does not count set to zero, and a file's content
// as its length and its digest.
func (d *digester) entry(scanned *Entry) error {
	dir, name, err := d.b.parent(scanned.Path)
	if err != nil {
		return err
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	e := entryOf(scanned.Path, &st)
	if first, ok := d.links[e.inode()]; ok && e.linked() {
		d.write(appendLink(d.line[:0], e.Path, first))
		return nil
	}
	if e.linked() {
		d.links[e.inode()] = e.Path
	}
	attrs, err := d.attrs.read(dir, name)
	if err != nil {
		return err
	}
	regular := e.Mode&unix.S_IFMT == unix.S_IFREG
	e.Mtime.Nsec = 0
	if !regular {
		e.Mtime.Sec = 0
	}
	var target string
	if e.Mode&unix.S_IFMT == unix.S_IFLNK {
		if target, err = readlink(fd); err != nil {
			return err
		}
	}
	d.write(appendNode(d.line[:0], &e, target, attrs))
	if !regular {
		return nil
	}
	return d.content(fd)
}

// write adds a record with its length before it.
func (d *digester) write(record []byte) {
	d.line = record
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(len(record)))
	d.sum.Write(size[:])
	d.sum.Write(record)
}

// content adds the length and the digest of the file behind an O_PATH descriptor.
func (d *digester) content(fd int) error {
	file, err := openContent(fd)
	if err != nil {
		return err
	}
	defer unix.Close(file)
	sum := sha256.New()
	total := int64(0)
	for {
		n, err := unix.Read(file, d.buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if n == 0 {
			break
		}
		sum.Write(d.buf[:n])
		total += int64(n)
	}
	d.write(sum.Sum(binary.AppendUvarint(d.line[:0], uint64(total))))
	return nil
}

// Fingerprint returns a string that changes whenever the content of the tree at root changes, without reading any file: from names,
// modes, owners, sizes, inodes, modification and change times. It means something only on this host, as the key of a remembered Digest.
func Fingerprint(root string) (string, error) {
	x, err := Scan(root)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	var line []byte
	for i := range x.Entries {
		e := &x.Entries[i]
		line = appendString(line[:0], e.Path)
		for _, v := range []uint64{
			uint64(e.Mode), uint64(e.UID), uint64(e.GID), uint64(e.Nlink), uint64(e.Size), e.Ino, e.Dev, e.Rdev,
			uint64(e.Mtime.Sec), uint64(e.Mtime.Nsec), uint64(e.Ctime.Sec), uint64(e.Ctime.Nsec),
		} {
			line = binary.BigEndian.AppendUint64(line, v)
		}
		sum.Write(line)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
