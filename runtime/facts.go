package runtime

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/boot"
	"github.com/zap-migrate/zap/runtime/boot/nofile"
	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/spec"
)

// Facts gathers what compiling a bundle has to know about this host. Without a cgroup, as `zap explain` calls it, the program joins none.
func Facts(id string, b *spec.Bundle, cg *cgroup.Cgroup) boot.Facts {
	f := boot.Facts{
		ID: id, Bundle: b.Dir, Root: b.RootPath(), Files: map[string]bool{}, Nofile: openFiles(), Capabilities: heldCapabilities(),
		Home: home(b, b.Spec.Process), Unprivileged: unprivileged(),
	}
	if o := b.Overlay; o != nil {
		f.Overlay = &boot.Overlay{Lower: o.Lower, Upper: o.Upper, Work: o.Work}
	}
	for _, m := range b.Spec.Mounts {
		if !isBind(m) {
			continue
		}
		source := m.Source
		if !filepath.IsAbs(source) {
			source = filepath.Join(b.Dir, source)
		}
		if info, err := os.Stat(source); err == nil && !info.IsDir() {
			f.Files[m.Source] = true
		}
	}
	f.AppArmor, f.SELinux = modules(b.Spec.Process, b.Spec.Linux)
	if cg != nil {
		f.Tasks, f.Cgroups = cg.TaskFiles(), shownCgroups(cg)
	}
	return f
}

// shownCgroups lists the cgroup's directories by the names of their mounts. Beside v1 hierarchies a v2 tree is not shown: programs, and
// CRIU, would take it for the one that counts, and runc does not show it either.
func shownCgroups(cg *cgroup.Cgroup) []boot.Cgroup {
	paths := cg.Paths()
	if dir, ok := paths[""]; ok && len(paths) == 1 {
		return []boot.Cgroup{{Dir: dir}}
	}
	byDir := map[string]*boot.Cgroup{}
	for controller, dir := range paths {
		if controller == "" {
			continue
		}
		name := filepath.Base(strings.TrimSuffix(dir, cg.Path()))
		if byDir[dir] == nil {
			byDir[dir] = &boot.Cgroup{Name: name, Dir: dir}
		}
		if controller != name && !strings.Contains(controller, "=") {
			byDir[dir].Links = append(byDir[dir].Links, controller)
		}
	}
	var out []boot.Cgroup
	for _, g := range byDir {
		slices.Sort(g.Links)
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b boot.Cgroup) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// openFiles is the limit on descriptors that this process was started with.
func openFiles() unix.Rlimit {
	soft, hard := nofile.Original()
	return unix.Rlimit{Cur: soft, Max: hard}
}

// heldCapabilities returns the permitted set of this process; 0 when it can't be read.
func heldCapabilities() uint64 {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, (*unix.CapUserData)(unsafe.Pointer(&data))); err != nil {
		return 0
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted)
}

// home returns the home directory of the process's user as the container's own /etc/passwd has it, "/" if it has none.
func home(b *spec.Bundle, p *specs.Process) string {
	if p == nil {
		return ""
	}
	for _, v := range slices.Backward(p.Env) {
		if value, ok := strings.CutPrefix(v, "HOME="); ok && value != "" {
			return ""
		} else if ok {
			break // the last setting counts, and an empty one is none
		}
	}
	roots := []string{b.RootPath()}
	if b.Overlay != nil {
		roots = append([]string{b.Overlay.Upper}, b.Overlay.Lower...)
	}
	for _, root := range roots {
		if dir, err := os.Open(root); err == nil {
			found, ok := homeIn(dir, p.User.UID)
			dir.Close()
			if ok {
				return found
			}
		}
	}
	return "/"
}

// maxPasswd bounds how much of an image's /etc/passwd is read, in bytes.
const maxPasswd = 1 << 20

// homeIn looks a user up in etc/passwd below a root directory, which may be hostile: nothing outside of it is opened, and only a
// regular file is read. It returns false when there is no such file.
func homeIn(root *os.File, uid uint32) (string, bool) {
	fd, err := unix.Openat2(int(root.Fd()), "etc/passwd", &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return "", false
	}
	f := os.NewFile(uintptr(fd), "etc/passwd")
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", false
	}
	lines := bufio.NewScanner(io.LimitReader(f, maxPasswd))
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) >= 6 && fields[2] == strconv.FormatUint(uint64(uid), 10) && filepath.IsAbs(fields[5]) {
			return fields[5], true
		}
	}
	return "/", true
}

// owner names the user of this process.
func owner() string {
	uid := os.Getuid()
	if uid == 0 {
		return "root"
	}
	if root, err := os.Open("/etc/passwd"); err == nil {
		defer root.Close()
		lines := bufio.NewScanner(io.LimitReader(root, maxPasswd))
		for lines.Scan() {
			if fields := strings.Split(lines.Text(), ":"); len(fields) > 2 && fields[2] == strconv.Itoa(uid) {
				return fields[0]
			}
		}
	}
	return fmt.Sprint(uid)
}
