package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/spec"
)

// externalMount is a mount that is not in the images: the restore puts something of the host in its place.
type externalMount struct{ target, key string }

// nullKey is what runc calls all masked files.
const nullKey = "/dev/null"

// externalMounts finds the mounts of a running container that lie on something of the host, and names them as runc does: by their places
// in the container, masked files by the null device. CRIU saves the others by itself.
func externalMounts(s *State) ([]externalMount, error) {
	mounts, err := readMountInfo(strconv.Itoa(s.Pid))
	if err != nil {
		return nil, err
	}
	root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", s.Pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open root of process %d: %w", s.Pid, err)
	}
	defer root.Close()
	asked := map[int]*specs.Mount{} // by the ids of the mounts that the specification made
	for i := range s.Bundle.Spec.Mounts {
		m := &s.Bundle.Spec.Mounts[i]
		if id, ok := mountAt(root, m.Destination); ok {
			asked[id] = m
		}
	}
	private := namespaceIndex(s.Bundle.Spec, specs.CgroupNamespace, "new") >= 0
	var out []externalMount
	for i := range mounts {
		// On a v2 host this is the root of the container's cgroup namespace, which CRIU can mount again; runc leaves it to that, too.
		if own := asked[mounts[i].id]; own != nil && private && mounts[i].fstype == "cgroup2" && !isBind(*own) {
			continue
		}
		if key := externalKey(&mounts[i], mounts, asked); key != "" {
			out = append(out, externalMount{mounts[i].target, key})
		}
	}
	return out, nil
}

// mountAt returns the id of the mount that path, below root, is on.
func mountAt(root *os.File, path string) (int, bool) {
	fd, err := openInRoot(int(root.Fd()), path, unix.O_PATH)
	if err != nil {
		return 0, false
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return 0, false
	}
	return int(st.Mnt_id), true
}

// openInRoot opens a path as a process whose root is root would, whatever links are on the way.
func openInRoot(root int, path string, flags uint64) (int, error) {
	path = strings.TrimLeft(filepath.Clean("/"+path), "/")
	if path == "" {
		path = "."
	}
	return unix.Openat2(root, path, &unix.OpenHow{
		Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
}

// externalKey returns the name of a mount in the images, or "" when CRIU saves it.
func externalKey(m *mountInfo, all []mountInfo, asked map[int]*specs.Mount) string {
	own := asked[m.id]
	switch {
	case m.target == "/":
		return ""
	case own != nil && isBind(*own):
		return m.target
	case m.fstype == "cgroup", m.fstype == "cgroup2" && m.root != "/":
		return m.target
	case m.fstype == "devtmpfs" && m.root == "/null" && m.target != nullKey:
		return nullKey
	case m.fstype == "devtmpfs" && m.root != "/":
		return m.target
	case own != nil:
		return ""
	}
	// What came along with a recursive bind mount.
	var nearest *specs.Mount
	longest := 0
	for i := range all {
		above := &all[i]
		if s := asked[above.id]; s != nil && len(above.target) > longest && strings.HasPrefix(m.target, above.target+"/") {
			nearest, longest = s, len(above.target)
		}
	}
	if nearest != nil && isBind(*nearest) {
		return m.target
	}
	return ""
}

// imageMounts finds what takes the place of the mounts that images leave out.
type imageMounts struct {
	bundle  *spec.Bundle
	root    *os.File // the root file system
	cgroups map[string]string
	sources map[string]string // by place in the container
}

func newImageMounts(b *spec.Bundle, root *os.File, cg *cgroup.Cgroup) *imageMounts {
	m := &imageMounts{bundle: b, root: root, cgroups: map[string]string{}, sources: map[string]string{}}
	for _, g := range shownCgroups(cg) {
		for _, name := range append([]string{g.Name}, g.Links...) {
			m.cgroups[name] = g.Dir
		}
	}
	if dir := cg.UnifiedDir(); dir != "" && m.cgroups["unified"] == "" {
		m.cgroups["unified"] = dir
	}
	for destination, source := range bindSources(b) {
		m.sources[destination] = source
		m.sources[m.resolve(destination)] = source
	}
	return m
}

// resolve follows the links of a path in the root file system, as far as it exists there.
func (m *imageMounts) resolve(path string) string {
	path = filepath.Clean("/" + path)
	fd, err := openInRoot(int(m.root.Fd()), path, unix.O_PATH)
	if err != nil {
		if path == "/" {
			return path
		}
		return filepath.Join(m.resolve(filepath.Dir(path)), filepath.Base(path))
	}
	defer unix.Close(fd)
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return path
	}
	top, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", m.root.Fd()))
	if err != nil {
		return path
	}
	return filepath.Join("/", strings.TrimPrefix(real, top))
}

// source returns the path on the host of what a key stands for.
func (m *imageMounts) source(key string) (string, error) {
	if key == nullKey && m.sources[key] == "" {
		return nullKey, nil
	}
	for at := filepath.Clean(key); at != "/" && at != "."; at = filepath.Dir(at) {
		source, ok := m.sources[at]
		switch {
		case !ok:
			continue
		case source != "":
			return filepath.Join(source, strings.TrimPrefix(key, at)), nil
		}
		if source := m.cgroup(at, key); source != "" {
			return source, nil
		}
		break
	}
	for _, d := range m.bundle.Spec.Linux.Devices {
		if d.Path == key {
			return key, nil
		}
	}
	if info, err := os.Stat(key); strings.HasPrefix(key, "/dev/") && err == nil && info.Mode()&fs.ModeDevice != 0 {
		return key, nil
	}
	return "", fmt.Errorf("mount %s: the checkpoint has it and the container has not (config.json: mounts)", key)
}

// cgroup returns the directory that a mount of type cgroup at place shows under the name key.
func (m *imageMounts) cgroup(place, key string) string {
	for i := range m.bundle.Spec.Mounts {
		s := &m.bundle.Spec.Mounts[i]
		if !strings.HasPrefix(s.Type, "cgroup") || filepath.Clean(s.Destination) != place && m.resolve(s.Destination) != place {
			continue
		}
		return m.cgroups[strings.TrimPrefix(strings.TrimPrefix(key, place), "/")]
	}
	return ""
}

// prepare makes the places that the mounts of the images need in the root file system and in what is mounted there from the host. A
// tmpfs comes with its places in it.
func (m *imageMounts) prepare(mounts []criu.ImageMount, sources map[string]string) error {
	byID := map[int]*criu.ImageMount{}
	for i := range mounts {
		byID[mounts[i].ID] = &mounts[i]
	}
	sorted := slices.Clone(mounts)
	slices.SortStableFunc(sorted, func(a, b criu.ImageMount) int { return strings.Count(a.Target, "/") - strings.Count(b.Target, "/") })
	for _, mount := range sorted {
		parent := byID[mount.Parent]
		if mount.Target == "/" || parent == nil {
			continue
		}
		dir := false
		if source, ok := sources[mount.Key]; ok {
			info, err := os.Stat(source)
			if err != nil {
				return fmt.Errorf("mount %s: %w (config.json: mounts)", mount.Target, err)
			}
			dir = info.IsDir()
		} else {
			dir = true
		}
		var err error
		switch source, external := sources[parent.Key]; {
		case parent.Target == "/":
			err = makePlace(m.root, mount.Target, dir)
		case external && !strings.HasPrefix(source, "/sys/fs/cgroup"):
			err = makePlaceBelow(source, strings.TrimPrefix(mount.Target, parent.Target), dir)
		}
		if err != nil {
			return fmt.Errorf("make place for mount %s: %w", mount.Target, err)
		}
	}
	return nil
}

func makePlaceBelow(source, path string, dir bool) error {
	root, err := os.OpenFile(source, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	return makePlace(root, path, dir)
}

// makePlace makes a directory or an empty file, and the directories above, where nothing is. Links lead nowhere out of root.
func makePlace(root *os.File, path string, dir bool) error {
	fd, err := openInRoot(int(root.Fd()), path, unix.O_PATH)
	if err == nil {
		unix.Close(fd)
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	at := filepath.Clean("/" + path)
	if err := makePlace(root, filepath.Dir(at), true); err != nil {
		return err
	}
	parent, err := openInRoot(int(root.Fd()), filepath.Dir(at), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return &os.PathError{Op: "open", Path: filepath.Dir(at), Err: err}
	}
	defer unix.Close(parent)
	name := filepath.Base(at)
	if dir {
		if err := unix.Mkdirat(parent, name, 0o755); err != nil && err != unix.EEXIST {
			return &os.PathError{Op: "mkdir", Path: at, Err: err}
		}
		return nil
	}
	fd, err = unix.Openat(parent, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil && err != unix.EEXIST {
		return &os.PathError{Op: "create", Path: at, Err: err}
	}
	if err == nil {
		unix.Close(fd)
	}
	return nil
}
