package cell

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	installed = "/usr/local/bin/zap"
	store     = "/mnt" // what mounts are made of
)

// furnish makes the mounts of the cell and sets its loopback link up.
func (c Cell) furnish() error {
	zap, err := c.openZap() // as long as it is to be seen: it may lie below a directory that is empty in the cell
	if err != nil {
		return err
	}
	defer zap.Close()
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := c.remountGroups(); err != nil {
		return err
	}
	// What is written to the copies lies on a tmpfs that no path leads to any more.
	if err := mount("cell", store, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for i, dir := range c.Copies {
		upper, work := fmt.Sprintf("%s/%d", store, i), fmt.Sprintf("%s/%d.work", store, i)
		if err := os.Mkdir(upper, 0o755); err != nil {
			return err
		}
		if err := os.Mkdir(work, 0o755); err != nil {
			return err
		}
		if err := mount("cell", dir, "overlay", 0, "lowerdir="+dir+",upperdir="+upper+",workdir="+work); err != nil {
			return err
		}
	}
	for _, dir := range c.Empty {
		info, err := os.Stat(dir)
		if err != nil {
			if err = os.MkdirAll(dir, 0o755); err == nil {
				info, err = os.Stat(dir)
			}
		}
		if err != nil {
			return err
		}
		if err := mount("cell", dir, "tmpfs", 0, ""); err != nil {
			return err
		}
		if err := os.Chmod(dir, info.Mode()); err != nil {
			return err
		}
	}
	if err := unix.Unmount(store, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", store, err)
	}
	if c.Zap != "" {
		if err := bindZap(zap); err != nil {
			return err
		}
	}
	if c.Shared {
		if err := mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte("cell")); err != nil {
		return err
	}
	return loopbackUp()
}

// openZap opens the program to be tested; without one, nothing.
func (c Cell) openZap() (*os.File, error) {
	if c.Zap == "" {
		return nil, nil
	}
	path := os.Getenv(c.Zap)
	if path == "" {
		return nil, fmt.Errorf("the environment variable %s names no program: make build, and give it bin/zap", c.Zap)
	}
	return os.Open(path)
}

// bindZap puts the program where programs are installed.
func bindZap(zap *os.File) error {
	f, err := os.OpenFile(installed, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	f.Close()
	return mount(fmt.Sprintf("/proc/self/fd/%d", zap.Fd()), installed, "", unix.MS_BIND, "")
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", strings.TrimSpace(kind+" "+data), target, err)
	}
	return nil
}

func loopbackUp() error {
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("set lo up: %w: %s", err, out)
	}
	if _, err := net.InterfaceByName("lo"); err != nil {
		return err
	}
	return nil
}
