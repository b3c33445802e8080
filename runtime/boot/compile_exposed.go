package boot

import (
	"golang.org/x/sys/unix"
)

// HostMount is a mount of the host's that would be left in the container's mount namespace, although no path leads there.
type HostMount struct {
	// Place is its absolute path.
	Place string
	// Full says that it shows all of a proc or sysfs; others only stand in the way to one.
	Full bool
}

// detachHost takes the host's proc and sysfs out of the container's mount namespace. As long as one is in it the kernel lets a user
// namespace inside mount a new one, in which nothing is masked. The root has been moved onto / by now but is not yet the process's, so that
// paths still lead to the host's, and also to what the root was mounted over.
//
// In a user namespace the kernel keeps them: there they are covered, which counts as masked.
func (c *compiler) detachHost() {
	for i := len(c.facts.Exposed) - 1; i >= 0; i-- { // one may be on another
		m := c.facts.Exposed[i]
		c.on("detach the host's "+m.Place, "root.path")
		call := c.do(unix.SYS_UMOUNT2, text(m.Place), symbol(unix.MNT_DETACH, namesUmount)).
			ignore(unix.EINVAL, unix.EPERM, unix.ENOENT, unix.ENOTDIR, unix.EACCES)
		if !m.Full {
			continue
		}
		done := new(label)
		call.then(done)
		c.do(unix.SYS_MOUNT, text("tmpfs"), text(m.Place), text("tmpfs"), number(0), null()).ignore(unix.ENOENT, unix.ENOTDIR)
		c.place(done)
	}
}
