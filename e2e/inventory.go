package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/pod"
)

// Inventory is everything on a host that a pod, or the move of one, could leave behind: one line each, kind first, without
// what is different every time (pids, counters), so that two of them can be compared.
type Inventory []string

// Inventory lists what the host has. It takes the machine's cgroups and mounts, of which it keeps those that carry the
// lab's id, because the hosts of all labs share them.
func (h *Host) Inventory(t testing.TB) Inventory {
	t.Helper()
	var inv Inventory
	add := func(kind string, entries []string, err error) {
		if err != nil {
			t.Fatalf("take inventory of %s: %s: %v", h.Name, kind, err)
		}
		for _, e := range entries {
			inv = append(inv, kind+": "+e)
		}
	}
	procs, spaces, err := h.processes()
	add("process", procs, err)
	add("network namespace", spaces, nil)
	for kind, command := range map[string][]string{
		"link":     {"ip", "-o", "link"},
		"address":  {"ip", "-o", "addr"},
		"route":    {"ip", "route", "show", "table", "all"},
		"route6":   {"ip", "-6", "route", "show", "table", "all"},
		"proxy":    {"ip", "neigh", "show", "proxy"},
		"nft":      {"nft", "-s", "list", "ruleset"},
		"qdisc":    {"tc", "qdisc", "show"},
		"netns id": {"ip", "netns", "list-id"},
	} {
		out, err := h.list(command...)
		add(kind, out, err)
	}
	cgroups, err := h.lab.cgroups()
	add("cgroup", slices.DeleteFunc(cgroups, h.foreignCgroup), err)
	add("mount", h.lab.mounts(), nil)
	files, err := walk(h.Root)
	add("file", files, err)
	run, err := filepath.Glob("/run/*" + h.lab.ID + "*")
	add("run", slices.DeleteFunc(run, func(p string) bool { return strings.HasPrefix(p, netnsDir) }), err)
	for _, kind := range []string{"shm", "sem", "msg"} {
		out, err := sysv(kind)
		add("sysv "+kind, out, err)
	}
	slices.Sort(inv)
	return inv
}

// Diff lists what after has more than before with a plus, and what it has less with a minus.
func Diff(before, after Inventory) []string {
	count := map[string]int{}
	for _, e := range after {
		count[e]++
	}
	for _, e := range before {
		count[e]--
	}
	var diff []string
	for e, n := range count {
		if n > 0 {
			diff = append(diff, "+ "+e)
		} else if n < 0 {
			diff = append(diff, "- "+e)
		}
	}
	slices.Sort(diff)
	return diff
}

// WantSame takes the host's inventory until it is as before, and fails the test when it still isn't after a while. Entries
// that contain one of allowed don't count.
func (h *Host) WantSame(t testing.TB, before Inventory, allowed ...string) {
	t.Helper()
	var diff []string
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		processes.reap()
		diff = slices.DeleteFunc(Diff(before, h.Inventory(t)), func(e string) bool {
			return slices.ContainsFunc(allowed, func(a string) bool { return strings.Contains(e, a) })
		})
		if len(diff) == 0 {
			return
		}
		if time.Now().After(deadline) {
			break
		}
	}
	if most := 40; len(diff) > most {
		diff = append(diff[:most], fmt.Sprintf("and %d more", len(diff)-most))
	}
	t.Errorf("%s is not as it was:\n  %s", h.Name, strings.Join(diff, "\n  "))
}

// processes lists the host's processes by their command lines, and the network namespaces that they are in or hold open,
// by whose they are. A process whose host can't be told is everybody's.
func (h *Host) processes() (list, spaces []string, err error) {
	all, err := descendants()
	if err != nil {
		return nil, nil, err
	}
	own, err := h.NetNS.Inode()
	if err != nil {
		return nil, nil, err
	}
	others := map[uint64]bool{}
	for _, n := range h.lab.spaces {
		if ino, err := n.Inode(); err == nil && ino != own {
			others[ino] = true
		}
	}
	foreign := map[int]bool{} // processes of other hosts and their children: descendants come parents first
	seen := map[uint64]bool{own: true}
	for _, p := range all {
		if others[p.NetNS] || foreign[p.PPid] {
			foreign[p.Pid] = true
			continue
		}
		if p.State == 'Z' && p.PPid == os.Getpid() {
			continue // ours to reap
		}
		list = append(list, p.Args)
		for _, ino := range append(heldNetNS(p.Pid), p.NetNS) {
			if ino != 0 && !seen[ino] && !others[ino] {
				seen[ino] = true
				spaces = append(spaces, "of "+p.Args)
			}
		}
	}
	return list, spaces, nil
}

// foreignCgroup says whether a cgroup is that of a pod of another host; the machine has one tree of them for all.
func (h *Host) foreignCgroup(dir string) bool {
	for _, other := range h.lab.Hosts {
		_, name, ok := strings.Cut(filepath.Base(dir), "-")
		if other != h && ok && strings.HasSuffix(dir, pod.CgroupPath(other.Root, name)) {
			return true
		}
	}
	return false
}

// heldNetNS is the network namespaces that a process holds open.
func heldNetNS(pid int) []uint64 {
	dir := "/proc/" + strconv.Itoa(pid) + "/fd"
	fds, _ := readDirNames(dir)
	var found []uint64
	for _, fd := range fds {
		target, _ := os.Readlink(filepath.Join(dir, fd))
		if ino, ok := strings.CutPrefix(target, "net:["); ok {
			n, _ := strconv.ParseUint(strings.TrimSuffix(ino, "]"), 10, 64)
			found = append(found, n)
		}
	}
	return found
}

// madeUp is an address that the host's end of a pod's link gets by chance, each time another.
var madeUp = regexp.MustCompile(`(link/ether fe:ff):\S+`)

// list is the lines that a command prints in the host, without interface indexes and made-up addresses.
func (h *Host) list(argv ...string) ([]string, error) {
	r := h.Try(argv[0], argv[1:]...)
	if r.Err != nil {
		return nil, fmt.Errorf("%s: %v", strings.Join(argv, " "), r)
	}
	var out []string
	for line := range strings.Lines(r.Stdout) {
		line = strings.TrimSpace(strings.ReplaceAll(line, "\\", " "))
		if number, rest, ok := strings.Cut(line, ": "); ok && isNumber(number) {
			line = rest
		}
		line = madeUp.ReplaceAllString(strings.Join(strings.Fields(line), " "), "$1")
		if line != "" {
			out = append(out, line)
		}
	}
	return out, nil
}

func isNumber(s string) bool { _, err := strconv.Atoi(s); return err == nil }

// walk lists the files below root with kind and mode.
func walk(root string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) {
				return nil
			}
			return err
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		if rel, _ := filepath.Rel(root, path); rel != "." {
			found = append(found, rel+" "+info.Mode().String())
		}
		return nil
	})
	return found, err
}

// cgroupRoots are the mount points of the machine's cgroup hierarchies.
func cgroupRoots() map[string]string {
	roots := map[string]string{}
	data, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range bytes.Lines(data) {
		before, after, _ := strings.Cut(strings.TrimSpace(string(line)), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		switch {
		case len(f) < 5 || len(g) < 3:
		case g[0] == "cgroup2":
			roots[""] = f[4]
		case g[0] == "cgroup":
			for option := range strings.SplitSeq(g[2], ",") {
				roots[option] = f[4]
			}
		}
	}
	return roots
}

// cgroupsOf is the directories of the cgroups that a process is in.
func cgroupsOf(pid int) []string {
	roots := cgroupRoots()
	data, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	var dirs []string
	for line := range bytes.Lines(data) {
		f := strings.SplitN(strings.TrimSpace(string(line)), ":", 3)
		if len(f) != 3 {
			continue
		}
		controller, _, _ := strings.Cut(f[1], ",")
		if root, ok := roots[controller]; ok {
			dirs = append(dirs, filepath.Join(root, f[2]))
		}
	}
	return dirs
}

// cgroups lists the machine's cgroups that carry the lab's id.
func (l *Lab) cgroups() ([]string, error) {
	var found []string
	for _, root := range cgroupRoots() {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if os.IsNotExist(err) {
					return nil
				}
				return err
			}
			if d.IsDir() && l.owns(path) {
				found = append(found, path)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// owns says whether a cgroup was made for this lab: a part of its path is a pod's name, which ends with the lab's id. The
// machine has cgroups of others too, which nothing here may touch.
func (l *Lab) owns(dir string) bool {
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasSuffix(part, "-"+l.ID) {
			return true
		}
	}
	return false
}

// removeCgroups removes what is left of the lab's cgroups, deepest first.
func (l *Lab) removeCgroups() {
	left, _ := l.cgroups()
	slices.Reverse(left)
	for _, dir := range left {
		if err := unix.Rmdir(dir); err != nil && !os.IsNotExist(err) {
			l.t.Errorf("remove cgroup %s: %v", dir, err)
		}
	}
}

// mounts lists the mounts that carry the lab's id or are below its directory, last mounted first. Its network namespaces
// are not among them.
func (l *Lab) mounts() []string {
	data, _ := os.ReadFile("/proc/self/mountinfo")
	var found []string
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) > 4 && (strings.Contains(f[4], l.ID) || strings.HasPrefix(f[4], l.Dir+"/")) && !strings.Contains(f[4], netnsDir+"/") && !strings.HasPrefix(f[4], "/run/netns") {
			found = append(found, strings.ReplaceAll(f[4], `\040`, " "))
		}
	}
	slices.Reverse(found)
	return found
}

// sysv lists System V objects of the machine's own IPC namespace.
func sysv(kind string) ([]string, error) {
	data, err := os.ReadFile("/proc/sysvipc/" + kind)
	if err != nil {
		return nil, err
	}
	var found []string
	for i, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		if f := strings.Fields(line); i > 0 && len(f) > 1 {
			found = append(found, f[0]+" "+f[1])
		}
	}
	return found, nil
}
