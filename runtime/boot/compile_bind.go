package boot

import (
	"golang.org/x/sys/unix"
)

// switches are the attributes that a bind mount has or has not. All but the last may be locked.
const switches = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW

// timeOptions are the options about access times by the flags of mount(2). Taking one away that is not there says nothing.
var timeOptions = map[string]struct{ set, clear uint64 }{
	"relatime": {set: unix.MS_RELATIME}, "norelatime": {clear: unix.MS_RELATIME},
	"noatime": {set: unix.MS_NOATIME}, "atime": {clear: unix.MS_NOATIME},
	"strictatime": {set: unix.MS_STRICTATIME}, "nostrictatime": {clear: unix.MS_STRICTATIME},
	"nodiratime": {set: unix.MS_NODIRATIME}, "diratime": {clear: unix.MS_NODIRATIME},
}

// bindAttributes gives the bind mount at hand its attributes. As with mount(2), one that is told any has those it is told and no others of
// the source's, but for access times if nothing is said of them. What is locked, because a user namespace got the source from its parent,
// stays then, unless an option says otherwise: that fails.
func (c *compiler) bindAttributes(o mountOptions) {
	if o.given {
		set := o.set & switches
		exact := unix.MountAttr{Attr_set: set, Attr_clr: switches &^ set}
		kept := unix.MountAttr{Attr_set: set, Attr_clr: (o.clear & switches) | unix.MOUNT_ATTR_NOSYMFOLLOW&^set}
		if o.times != 0 {
			times := o.accessTimes()
			exact.Attr_set |= times
			exact.Attr_clr |= unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME&^times
			kept.Attr_set |= times
			kept.Attr_clr |= unix.MOUNT_ATTR__ATIME
		}
		done := new(label)
		c.setattr(c.mnt, 0, exact).ignore(unix.EPERM, unix.EINVAL).then(done)
		c.setattr(c.mnt, 0, kept).ignore(unix.EINVAL).then(done)
		kept.Attr_clr &^= unix.MOUNT_ATTR_NOSYMFOLLOW // which Linux 5.13 does not know
		c.setattr(c.mnt, 0, kept)
		c.place(done)
	}
	c.attributesOf(c.mnt, mountOptions{setAll: o.setAll, clrAll: o.clrAll})
}

// accessTimes returns the attributes that mount(2) makes of the options about access times.
func (m *mountOptions) accessTimes() uint64 {
	var a uint64 // MOUNT_ATTR_RELATIME
	switch {
	case m.times&unix.MS_STRICTATIME != 0:
		a = unix.MOUNT_ATTR_STRICTATIME
	case m.times&unix.MS_NOATIME != 0:
		a = unix.MOUNT_ATTR_NOATIME
	}
	if m.times&unix.MS_NODIRATIME != 0 {
		a |= unix.MOUNT_ATTR_NODIRATIME
	}
	return a
}
