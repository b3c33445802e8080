package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// v1Controllers are mounted each at its own place, as Debian did before cgroup v2; those named together share one.
var v1Controllers = []string{"cpu,cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio", "net_cls,net_prio", "perf_event", "hugetlb"}

// mountCgroups mounts the hierarchy that was asked for.
func mountCgroups(words map[string]string) error {
	switch words["cgroup"] {
	case "v2":
		return mountUnified(cgroupRoot)
	case "v1", "hybrid":
		return mountV1(words["cgroup"] == "hybrid")
	default:
		return fmt.Errorf("zap.cgroup=%s: neither v2, v1 nor hybrid", words["cgroup"])
	}
}

// mountUnified mounts cgroup v2 and gives children the usual controllers.
func mountUnified(at string) error {
	if err := mountAll(mountPoint{"cgroup2", at, "cgroup2", plain, "nsdelegate"}); err != nil {
		return err
	}
	have, err := os.ReadFile(at + "/cgroup.controllers")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(have)) {
		if err := os.WriteFile(at+"/cgroup.subtree_control", []byte("+"+name), 0); err != nil {
			say("cgroup controller %s: %v", name, err)
		}
	}
	return nil
}

// mountV1 mounts every controller that the kernel has, and for a hybrid an empty v2 hierarchy beside them.
func mountV1(hybrid bool) error {
	if err := mountAll(mountPoint{"tmpfs", cgroupRoot, "tmpfs", plain, "mode=755"}); err != nil {
		return err
	}
	for _, names := range v1Controllers {
		if err := mountAll(mountPoint{"cgroup", cgroupRoot + "/" + names, "cgroup", plain, names}); err != nil {
			os.Remove(cgroupRoot + "/" + names)
			say("%v", err)
			continue
		}
		if list := strings.Split(names, ","); len(list) > 1 {
			for _, name := range list {
				_ = os.Symlink(names, cgroupRoot+"/"+name)
			}
		}
	}
	if err := mountAll(mountPoint{"cgroup", cgroupRoot + "/systemd", "cgroup", plain, "none,name=systemd"}); err != nil {
		return err
	}
	if hybrid { // after v1, which takes the controllers
		if err := mountUnified(cgroupRoot + "/unified"); err != nil {
			return err
		}
	}
	if err := unix.Mount("", cgroupRoot, "", unix.MS_REMOUNT|unix.MS_RDONLY|plain, "mode=755"); err != nil {
		return fmt.Errorf("make %s read-only: %w", cgroupRoot, err)
	}
	return nil
}
