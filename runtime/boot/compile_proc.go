package boot

import (
	"strings"

	"golang.org/x/sys/unix"
)

// openProc opens the host's proc as register proc, if the program is going to write to it. That is the first thing after birth, while the
// process is still in the mount namespace of the runtime: what a container shows at /proc may be anything, and a write that was meant to
// take rights away would end elsewhere (CVE-2019-16884, CVE-2025-52881).
func (c *compiler) openProc() {
	p, l := c.spec.Process, c.spec.Linux
	clocks := false
	for _, ns := range l.Namespaces {
		clocks = clocks || NamespaceFlag(ns.Type) == unix.CLONE_NEWTIME && ns.Path == ""
	}
	if p.OOMScoreAdj == nil && len(l.Sysctl) == 0 && !clocks && p.ApparmorProfile == "" && p.SelinuxLabel == "" {
		return
	}
	c.on("open /proc", "")
	st, magic := new(unix.Statfs_t), int64(unix.PROC_SUPER_MAGIC)
	c.do(unix.SYS_OPENAT, cwd(), text("/proc"), symbol(flagsDir|unix.O_NOFOLLOW, namesOpen)).into("proc")
	c.do(unix.SYS_FSTATFS, c.reg("proc"), memory(st, showStat))
	expect(&c.builder, &st.Type, &magic, nil, showMagic).hint(unix.EXDEV, "what is mounted on /proc is no proc")
}

// inProc opens a file of the host's proc, which openProc has opened, as register file. Links of the kernel's are not followed, except at the
// end of the path where that is wanted.
func (b *builder) inProc(path string, flags, resolve uint64) last {
	path = strings.TrimPrefix(path, "/proc/")
	how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	return b.do(unix.SYS_OPENAT2, b.reg("proc"), text(path), memory(how, showHow), number(unix.SizeofOpenHow)).into("file")
}

// writeFile writes a short text into a file of the host's proc, which openProc has opened.
func (b *builder) writeFile(path, content string) last {
	b.inProc(path, unix.O_WRONLY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
	written := b.do(unix.SYS_WRITE, b.reg("file"), text(content), number(len(content)))
	b.close("file")
	return written
}
