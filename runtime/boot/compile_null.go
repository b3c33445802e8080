package boot

import "golang.org/x/sys/unix"

// nullStreams opens standard streams that are the host's null device again as the container's own: what a process has open should lie in its
// own mount namespace, or a checkpoint has to leave it to whoever restores it. What an image brings at /dev/null may be anything, so the
// container's /dev has to be one that this program has made.
func (c *compiler) nullStreams() {
	own := false
	for _, m := range c.spec.Mounts {
		own = own || inside(m.Destination) == "dev" && m.Type == "tmpfs"
	}
	if !own || c.spec.Process.Terminal || c.facts.NullStreams == [3]bool{} {
		return
	}
	c.on("open the container's null device as standard streams", "")
	c.do(unix.SYS_OPENAT, cwd(), text("/dev/null"), symbol(unix.O_RDWR|unix.O_CLOEXEC, namesOpen)).into("null")
	for i, null := range c.facts.NullStreams {
		if null {
			c.do(unix.SYS_DUP3, c.reg("null"), number(i), number(0))
		}
	}
	c.close("null")
}
