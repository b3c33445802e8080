package network

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const sysctlRoot = "/proc/sys"

// sysctlPath turns net.ipv4.conf.eth0.forwarding into its file. As with sysctl(8), a slash stands
// for a dot inside a component.
func sysctlPath(name string) (string, error) {
	parts := strings.Split(name, ".")
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(p, "/", ".")
		if p == "" || parts[i] == "." || parts[i] == ".." || strings.ContainsAny(p, "\x00\n") {
			return "", fmt.Errorf("sysctl name %q is malformed", name)
		}
	}
	if parts[0] != "net" || len(parts) < 3 {
		return "", fmt.Errorf("sysctl %q is not one of a network namespace", name)
	}
	return filepath.Join(sysctlRoot, filepath.Join(parts...)), nil
}

// sysctlComponent writes a file's name as a component of a sysctl's name.
func sysctlComponent(file string) string { return strings.ReplaceAll(file, ".", "/") }

// sortedSysctls puts names that other ones follow (all, then default) first.
func sortedSysctls(m map[string]string) []string {
	rank := func(name string) int {
		switch {
		case strings.Contains(name, ".conf.all."):
			return 0
		case strings.Contains(name, ".default."):
			return 1
		}
		return 2
	}
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b))
	})
	return names
}

// readSysctl returns the value in the calling thread's namespace, its white space made single
// spaces.
func readSysctl(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.Join(strings.Fields(string(b)), " "), err
}

// writeSysctl writes without O_TRUNC and O_CREAT, which /proc does not want.
func writeSysctl(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// quietSysctl writes a value that only keeps a kernel from chatting; where there is no such knob
// there is nothing to keep quiet.
func quietSysctl(path, value string) error {
	if err := writeSysctl(path, value); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// readSysctls reads the named ones; those that are not there are left out.
func readSysctls(names map[string]string) (map[string]string, error) {
	got := make(map[string]string, len(names))
	for name := range names {
		path, err := sysctlPath(name)
		if err != nil {
			return nil, err
		}
		v, err := readSysctl(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read sysctl %s: %w", name, err)
		}
		got[name] = v
	}
	return got, nil
}

// Trees of sysctls that belong to a namespace, and names below them that are no setting.
var (
	sysctlTrees = []string{"net/core", "net/ipv4", "net/ipv6", "net/unix", "net/mptcp"}
	sysctlSkip  = map[string]bool{
		"flush": true, "stable_secret": true, "accept_dad": true, "dad_transmits": true, "mtu": true, "optimistic_dad": true,
		"tcp_fastopen_key": true, "tcp_available_congestion_control": true, "tcp_allowed_congestion_control": true,
		"tcp_ehash_entries": true, "udp_hash_entries": true, "base_reachable_time": true, "retrans_time": true,
	}
)

// walkSysctls reads every writable setting of the calling thread's namespace. Of the settings per
// link it takes those of all, default and link. There are hundreds of them, each a file: what is done
// for one has to be little.
func walkSysctls(link string) map[string]string {
	w := &sysctlWalk{link: link, found: make(map[string]string, 1024), buf: make([]byte, 4096)}
	for _, tree := range sysctlTrees {
		fd, err := unix.Open(filepath.Join(sysctlRoot, tree), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // a tree that this kernel lacks
		}
		w.dir(os.NewFile(uintptr(fd), filepath.Base(tree)), strings.ReplaceAll(tree, "/", ".")+".")
	}
	return w.found
}

// sysctlWalk goes through directories of sysctls.
type sysctlWalk struct {
	link  string
	found map[string]string
	buf   []byte
}

// dir reads what is in a directory, whose settings' names begin with prefix, and closes it.
func (w *sysctlWalk) dir(d *os.File, prefix string) {
	defer d.Close()
	entries, _ := d.ReadDir(-1) // what went away meanwhile is left out
	perLink := d.Name() == "conf" || d.Name() == "neigh"
	for _, e := range entries {
		name := e.Name()
		if !e.IsDir() {
			w.file(d, name, prefix)
			continue
		}
		if perLink && name != "all" && name != "default" && name != w.link {
			continue
		}
		fd, err := unix.Openat(int(d.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err == nil {
			w.dir(os.NewFile(uintptr(fd), name), prefix+sysctlComponent(name)+".")
		}
	}
}

// file reads a setting. That it can be opened for writing, too, tells it from what is none.
func (w *sysctlWalk) file(d *os.File, name, prefix string) {
	if sysctlSkip[name] {
		return
	}
	fd, err := unix.Openat(int(d.Fd()), name, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, w.buf)
	if err != nil || n == len(w.buf) {
		return // some exist without a value, and none is as long: nothing that could be carried
	}
	w.found[prefix+sysctlComponent(name)] = strings.Join(strings.Fields(string(w.buf[:n])), " ")
}
