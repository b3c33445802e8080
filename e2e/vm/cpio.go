package vm

import (
	"bufio"
	"fmt"
	"io"
)

// cpio writes an archive of the kind that the kernel unpacks as initramfs: "newc", see the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst. Several archives may follow each other in one file.
type cpio struct {
	w     *bufio.Writer
	inode int
	err   error
}

const (
	cpioDir  = 0o040755
	cpioFile = 0o100755
	cpioChar = 0o020600
)

func newCpio(w io.Writer) *cpio { return &cpio{w: bufio.NewWriter(w)} }

// dir adds a directory; its parent has to be there already.
func (c *cpio) dir(name string) { c.entry(name, cpioDir, 0, 0, nil) }

// file adds a regular file.
func (c *cpio) file(name string, data []byte) { c.entry(name, cpioFile, 0, 0, data) }

// device adds a character device.
func (c *cpio) device(name string, major, minor int) { c.entry(name, cpioChar, major, minor, nil) }

func (c *cpio) entry(name string, mode, major, minor int, data []byte) {
	if c.err != nil {
		return
	}
	c.inode++
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	c.pad(io.WriteString(c.w, head))
	c.pad(c.w.Write(data))
}

// pad fills what was written up to a multiple of four bytes.
func (c *cpio) pad(n int, err error) {
	if err == nil && n%4 != 0 {
		_, err = c.w.Write(make([]byte, 4-n%4))
	}
	if c.err == nil {
		c.err = err
	}
}

// close ends the archive.
func (c *cpio) close() error {
	c.entry("TRAILER!!!", 0, 0, 0, nil)
	if c.err != nil {
		return c.err
	}
	return c.w.Flush()
}
