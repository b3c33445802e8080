package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/pod/preflight"
	"github.com/zap-migrate/zap/runtime/cgroup"
)

// pipeMaxSize is what CRIU's pipes may need, in bytes.
const pipeMaxSize = 4 << 20

// all runs every check, in the order in which they are printed.
func (c *checker) all(ctx context.Context) []checkRow {
	rows := []checkRow{
		checkUser(), checkKernel(), checkCapabilities(), checkCgroups(), checkOverlay(), checkTmpfs(), checkTimeNamespaces(),
		checkNetwork(ctx), checkBridge(), checkSockets(), checkPipeSize(), checkSoftDirty(), checkUserfaultfd(), checkTar(),
	}
	return append(rows, c.criu(ctx)...)
}

func checkUser() checkRow {
	r := checkRow{Name: "user", Status: checkOK, Value: "root"}
	if os.Geteuid() != 0 {
		r.Status, r.Value, r.Hint = checkFail, fmt.Sprintf("uid %d", os.Geteuid()), "run as root: pods need namespaces, cgroups and CRIU"
	}
	return r
}

func checkKernel() checkRow {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return checkRow{Name: "kernel", Status: checkFail, Value: err.Error()}
	}
	return kernelRow(unix.ByteSliceToString(uts.Release[:]), unix.ByteSliceToString(uts.Machine[:]))
}

func kernelRow(release, machine string) checkRow {
	r := checkRow{Name: "kernel", Status: checkOK, Value: "Linux " + release + " " + machine}
	switch major, minor := kernelVersion(release); {
	case major < 5 || major == 5 && minor < 12:
		r.Status, r.Hint = checkFail, "Linux 5.12 or newer is needed (mount_setattr)"
	case major == 5 && minor < 16:
		r.Status, r.Hint = checkWarn, "moves need Linux 5.16 or newer (nftables on a link's way out, mount groups)"
	}
	return r
}

// kernelVersion returns the first two numbers of a kernel release, 0 where there is none.
func kernelVersion(release string) (major, minor int) {
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return 0, 0
	}
	return major, minor
}

// neededCapabilities can't be done without; usedCapabilities are missed by
// some programs or by CRIU.
var (
	neededCapabilities = map[int]string{
		unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN", unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_SYS_PTRACE: "CAP_SYS_PTRACE",
		unix.CAP_KILL: "CAP_KILL", unix.CAP_SETUID: "CAP_SETUID", unix.CAP_SETGID: "CAP_SETGID", unix.CAP_CHOWN: "CAP_CHOWN",
		unix.CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE", unix.CAP_SYS_CHROOT: "CAP_SYS_CHROOT", unix.CAP_NET_RAW: "CAP_NET_RAW",
	}
	usedCapabilities = map[int]string{
		unix.CAP_SYS_RESOURCE: "CAP_SYS_RESOURCE", unix.CAP_MKNOD: "CAP_MKNOD", unix.CAP_SETPCAP: "CAP_SETPCAP",
		unix.CAP_SETFCAP: "CAP_SETFCAP", unix.CAP_FOWNER: "CAP_FOWNER", unix.CAP_IPC_LOCK: "CAP_IPC_LOCK",
		unix.CAP_CHECKPOINT_RESTORE: "CAP_CHECKPOINT_RESTORE", unix.CAP_AUDIT_CONTROL: "CAP_AUDIT_CONTROL",
	}
)

func checkCapabilities() checkRow {
	effective, err := effectiveCapabilities()
	if err != nil {
		return checkRow{Name: "capabilities", Status: checkFail, Value: err.Error()}
	}
	return capabilitiesRow(effective)
}

func capabilitiesRow(effective uint64) checkRow {
	r := checkRow{Name: "capabilities", Status: checkOK, Value: "all that are needed"}
	missing := missingCapabilities(effective, usedCapabilities)
	switch needed := missingCapabilities(effective, neededCapabilities); {
	case needed != "":
		r.Status, r.Value, r.Hint = checkFail, "without "+needed, "run zap with these capabilities"
	case missing == "CAP_SYS_RESOURCE":
		r.Status, r.Value = checkWarn, "without "+missing
		r.Hint = "zap asks for resource limits in CRIU's place; large pipes need fs.pipe-max-size (below)"
	case missing != "":
		r.Status, r.Value = checkWarn, "without "+missing
		r.Hint = "pods that use what is missing can't be made or restored whole"
	}
	return r
}

func effectiveCapabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), nil
}

// missingCapabilities names those of wanted that are not in effective, in numerical order.
func missingCapabilities(effective uint64, wanted map[int]string) string {
	var missing []string
	for n := 0; n <= unix.CAP_LAST_CAP; n++ {
		if name, ok := wanted[n]; ok && effective&(1<<n) == 0 {
			missing = append(missing, name)
		}
	}
	return strings.Join(missing, ", ")
}

func checkCgroups() checkRow {
	r := checkRow{Name: "cgroups", Status: checkOK, Value: cgroup.Mode()}
	if r.Value == "none" {
		r.Status, r.Hint = checkFail, "mount cgroup v2 (or v1) on /sys/fs/cgroup: zap freezes and ends pods by their cgroup"
	}
	return r
}

// canOpen tries to set a file system of the given type up, without mounting it.
func canOpen(fstype string) error {
	fd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func checkOverlay() checkRow {
	r := checkRow{Name: "overlayfs", Status: checkOK, Value: "available"}
	if err := canOpen("overlay"); err != nil {
		r.Status, r.Value = checkFail, err.Error()
		r.Hint = "load the overlay module (modprobe overlay): a pod's root file system is an overlay"
	}
	return r
}

func checkTmpfs() checkRow {
	r := checkRow{Name: "tmpfs for CRIU's cache", Status: checkOK, Value: "each CRIU gets one of its own"}
	if err := canOpen("tmpfs"); err != nil {
		r.Status, r.Value, r.Hint = checkFail, err.Error(), "zap needs tmpfs for CRIU's cache and images"
		return r
	}
	var s unix.Statfs_t
	if err := unix.Statfs("/run", &s); err == nil && s.Type != unix.TMPFS_MAGIC {
		r.Value += " (/run is none, where others' CRIU probes the kernel at each start)"
	}
	return r
}

func checkTimeNamespaces() checkRow {
	r := checkRow{Name: "time namespaces", Status: checkOK, Value: "available"}
	if _, err := os.Stat("/proc/self/ns/time"); err != nil {
		r.Status, r.Value = checkWarn, "not in this kernel (CONFIG_TIME_NS)"
		r.Hint = "a moved program sees CLOCK_MONOTONIC jump: use Linux 5.6 or newer with time namespaces"
	}
	return r
}

func checkPipeSize() checkRow {
	r := checkRow{Name: "fs.pipe-max-size", Status: checkOK}
	data, err := os.ReadFile("/proc/sys/fs/pipe-max-size")
	if err != nil {
		r.Status, r.Value = checkWarn, err.Error()
		return r
	}
	r.Value = strings.TrimSpace(string(data))
	size, err := strconv.Atoi(r.Value)
	effective, errCaps := effectiveCapabilities()
	if err != nil || errCaps != nil || size < pipeMaxSize && effective&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		r.Status = checkWarn
		r.Hint = fmt.Sprintf("set it to %d (sysctl -w fs.pipe-max-size=%d): without CAP_SYS_RESOURCE CRIU's lazy pages fail below that", pipeMaxSize, pipeMaxSize)
	}
	return r
}

// softDirtyBit is the bit of a page's entry in /proc/PID/pagemap that says the
// page was written to.
const softDirtyBit = 55

// checkSoftDirty writes to a page and looks whether the kernel noticed.
func checkSoftDirty() checkRow {
	r := checkRow{Name: "soft-dirty tracking", Status: checkOK, Value: "available"}
	tracked, err := softDirty()
	if err == nil && tracked {
		return r
	}
	r.Status, r.Value = checkWarn, "not in this kernel (CONFIG_MEM_SOFT_DIRTY)"
	if err != nil {
		r.Value = err.Error()
	}
	r.Hint = "CRIU can't pre-dump memory here; zap reads it twice to send it ahead of a move"
	return r
}

func softDirty() (bool, error) {
	page := os.Getpagesize()
	memory, err := unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return false, fmt.Errorf("map a page: %w", err)
	}
	defer func() { _ = unix.Munmap(memory) }()
	memory[0] = 1
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return false, err
	}
	defer f.Close()
	var entry [8]byte
	at := int64(uintptr(unsafe.Pointer(&memory[0]))) / int64(page) * 8
	if _, err := f.ReadAt(entry[:], at); err != nil {
		return false, fmt.Errorf("read pagemap: %w", err)
	}
	return entry[softDirtyBit/8]&(1<<(softDirtyBit%8)) != 0, nil
}

func checkUserfaultfd() checkRow {
	r := checkRow{Name: "userfaultfd", Status: checkOK, Value: "available"}
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		r.Status, r.Value = checkWarn, errno.Error()
		r.Hint = "memory can't be sent after the pod (CONFIG_USERFAULTFD, or a seccomp filter around zap)"
		return r
	}
	unix.Close(int(fd))
	return r
}

func checkTar() checkRow {
	r := checkRow{Name: "tar", Status: checkOK}
	path, err := exec.LookPath("tar")
	if r.Value = path; err != nil {
		r.Status, r.Value, r.Hint = checkFail, "not found", "install tar: CRIU saves a pod's tmpfs mounts with it"
	}
	return r
}

// checkNetwork makes a pod's network in network namespaces of its own.
func checkNetwork(ctx context.Context) checkRow {
	r := checkRow{Name: "network (veth, nftables)", Status: checkOK, Value: "available"}
	if err := network.Probe(ctx); err != nil {
		r.Status, r.Value = checkFail, err.Error()
		r.Hint = "zap needs veth and nftables with netdev hooks and fwd (modprobe veth nf_tables nft_fwd_netdev)"
		var lack *network.LackError
		if errors.As(err, &lack) {
			r.Hint = "load the module " + lack.Module + " (modprobe " + lack.Module + "): pods' networks are made and moved with it"
		}
	}
	return r
}

// checkBridge is only a warning: the bridge may be somebody else's kind of link.
func checkBridge() checkRow {
	r := checkRow{Name: "bridge", Status: checkOK, Value: "available"}
	if err := network.ProbeBridge(); err != nil {
		r.Status, r.Value, r.Hint = checkWarn, err.Error(), "load the module bridge (modprobe bridge): pods' links are ports of one"
	}
	return r
}

// checkSockets asks for the modules by which CRIU finds out what a pod's sockets are.
func checkSockets() checkRow {
	r := checkRow{Name: "socket diagnosis", Status: checkOK, Value: "available"}
	if missing := preflight.MissingDiag(); len(missing) > 0 {
		names := strings.Join(missing, " ")
		r.Status, r.Value = checkWarn, "missing: "+names
		r.Hint = "load them (modprobe -a " + names + "): pods with such sockets can't leave this machine"
	}
	return r
}
