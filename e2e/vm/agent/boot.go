package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// path is where programs are looked for.
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// The places of the initramfs.
const (
	modulesDir = "/modules" // kernel modules, in the order they are loaded in
	newRoot    = "/root"
	selfCopy   = "/run/agent" // this program, once the initramfs is gone
)

// mountPoint is a mount(2).
type mountPoint struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// boot is process 1. It answers only with an error; the kernel panics then, which ends the machine.
func boot() (err error) {
	defer func() {
		if err != nil {
			say("broken: %v", err)
			time.Sleep(time.Second)
		}
	}()
	if err := mountAll(
		mountPoint{"proc", "/proc", "proc", plain, ""}, mountPoint{"sysfs", "/sys", "sysfs", plain, ""},
		mountPoint{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, ""},
	); err != nil {
		return err
	}
	words := commandLine()
	loadModules(strings.Split(words["without"], ","))
	if err := mountRoot(); err != nil {
		return err
	}
	for _, step := range []func(map[string]string) error{mountSystem, mountCgroups, setUpNetwork} {
		if err := step(words); err != nil {
			return err
		}
	}
	return reapForEver()
}

// say writes a line to the console.
func say(format string, args ...any) {
	if console, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
		fmt.Fprintf(console, "zap-agent: "+format+"\n", args...)
		console.Close()
	}
}

// commandLine is the zap.* words of the kernel's command line, without the prefix.
func commandLine() map[string]string {
	words := map[string]string{"name": "guest", "number": "1", "cgroup": "v2"}
	data, _ := os.ReadFile("/proc/cmdline")
	for word := range strings.FieldsSeq(string(data)) {
		if name, value, ok := strings.Cut(word, "="); ok && strings.HasPrefix(name, "zap.") {
			words[strings.TrimPrefix(name, "zap.")] = value
		}
	}
	return words
}

func mountAll(points ...mountPoint) error {
	for _, m := range points {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.source, m.target, err)
		}
	}
	return nil
}

// loadModules loads the initramfs's modules, but for those named. One that the kernel refuses is told of, and missed by who needs it.
func loadModules(without []string) {
	files, _ := filepath.Glob(modulesDir + "/*.ko") // NUMBER-NAME.ko, sorted
	for _, file := range files {
		_, name, _ := strings.Cut(strings.TrimSuffix(filepath.Base(file), ".ko"), "-")
		if slices.Contains(without, name) {
			continue
		}
		f, err := os.Open(file)
		if err == nil {
			err = unix.FinitModule(int(f.Fd()), "", 0)
			f.Close()
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			say("module %s: %v", name, err)
		}
	}
}

// mountRoot makes the first disk the root, with the second at /data, and lets go of the initramfs.
func mountRoot() error {
	for _, disk := range []mountPoint{{"/dev/vda", newRoot, "ext4", 0, ""}, {"/dev/vdb", newRoot + "/data", "ext4", 0, ""}} {
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			err := mountAll(disk)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return err
			}
		}
	}
	if err := mountAll(mountPoint{"tmpfs", newRoot + "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"}); err != nil {
		return err
	}
	if err := copySelf(newRoot + selfCopy); err != nil {
		return err
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, newRoot+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	os.RemoveAll(modulesDir)
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

func copySelf(to string) error {
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = io.Copy(out, in)
	return err
}

// mountSystem mounts what programs expect. What has to outlive the machine's death is on the second disk.
func mountSystem(words map[string]string) error {
	for _, dir := range []string{"/data/zap", "/data/tmp"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod("/data/tmp", 0o777|os.ModeSticky); err != nil {
		return err
	}
	if err := mountAll(
		mountPoint{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
		mountPoint{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		mountPoint{"mqueue", "/dev/mqueue", "mqueue", plain, ""},
		mountPoint{"/data/zap", "/var/lib/zap", "", unix.MS_BIND, ""},
		mountPoint{"/data/tmp", "/tmp", "", unix.MS_BIND, ""},
		mountPoint{"/data/tmp", "/var/tmp", "", unix.MS_BIND, ""},
	); err != nil {
		return err
	}
	// Security modules have their files here. A kernel without any has no such file system.
	if err := unix.Mount("securityfs", "/sys/kernel/security", "securityfs", plain, ""); err != nil {
		say("mount securityfs: %v", err)
	}
	// As systemd has it: what a container mounts must be seen not to leak although everything is shared.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	for name, to := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		_ = os.Symlink(to, "/dev/"+name)
	}
	// The tree's /usr/local/lib/zap/criu leads here. Debian's own needs none.
	if suite := words["criu"]; suite != "" && suite != "trixie" {
		if err := os.Symlink("/opt/criu/"+suite, "/run/criu"); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/run/lock", "/run/netns"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	hosts := "127.0.0.1 localhost " + words["name"] + "\n::1 localhost\n"
	if err := os.WriteFile("/etc/hosts", []byte(hosts), 0o644); err != nil {
		return err
	}
	return unix.Sethostname([]byte(words["name"]))
}

// setUpNetwork names the cards by their addresses: mgmt is for commands, up0 is the port of the bridge br0, which has the machine's
// address on the tests' segment.
func setUpNetwork(words map[string]string) error {
	cards, err := filepath.Glob("/sys/class/net/*/address")
	if err != nil {
		return err
	}
	script := "link set lo up\n"
	for _, card := range cards {
		mac, _ := os.ReadFile(card)
		name := filepath.Base(filepath.Dir(card))
		switch {
		case strings.HasPrefix(string(mac), "52:54:00:88:"):
			script += "link set " + name + " name mgmt\n"
		case strings.HasPrefix(string(mac), "52:54:00:77:"):
			script += "link set " + name + " name up0\n"
		}
	}
	n := words["number"]
	script += "addr add 10.99.0." + n + "/24 dev mgmt\nlink set mgmt up\n"
	script += "link add br0 up type bridge stp_state 0 forward_delay 0\nlink set up0 master br0\nlink set up0 up\n"
	script += "addr add 10.88.0." + n + "/24 dev br0\naddr add fd88::" + n + "/64 dev br0 nodad\n"
	// Addresses are good at once, as in the laboratory's other hosts.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
	cmd := exec.Command("/usr/sbin/ip", "-force", "-batch", "-")
	cmd.Stdin, cmd.Env = strings.NewReader(script), []string{"PATH=" + path}
	if out, err := cmd.CombinedOutput(); err != nil {
		say("ip: %v: %s", err, out) // a machine without the bridge module is a test of its own
	}
	return nil
}

// reapForEver starts the server, again when it ends, and takes every other process that ends away.
func reapForEver() error {
	for {
		null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		server, err := syscall.ForkExec(selfCopy, []string{"agent", "serve"}, &syscall.ProcAttr{
			Dir: "/", Env: []string{"PATH=" + path}, Files: []uintptr{null.Fd(), null.Fd(), null.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		null.Close()
		if err != nil {
			return err
		}
		for {
			pid, err := unix.Wait4(-1, nil, 0, nil)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || pid == server {
				break
			}
		}
		say("the server ended; there is a new one")
		time.Sleep(100 * time.Millisecond)
	}
}
