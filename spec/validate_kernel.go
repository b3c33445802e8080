package spec

import (
	"fmt"
	"math"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// namespaceTypes are the namespaces that the specification knows.
var namespaceTypes = []string{
	string(specs.PIDNamespace), string(specs.NetworkNamespace), string(specs.MountNamespace),
	string(specs.IPCNamespace), string(specs.UTSNamespace), string(specs.UserNamespace),
	string(specs.CgroupNamespace), string(specs.TimeNamespace),
}

// linux checks the part of a specification that is about namespaces, ids, devices, resources and filters.
func (c *checker) linux(s *specs.Spec) {
	l := s.Linux
	if l == nil {
		return
	}
	c.namespaces(l)
	c.identities(l)
	c.sysctls(l)
	c.text("linux.cgroupsPath", l.CgroupsPath, maxPath)
	if slices.Contains(strings.Split(l.CgroupsPath, "/"), "..") {
		c.errorf("linux.cgroupsPath", "%q has a .. in it", clip(l.CgroupsPath))
	}
	c.resources("linux.resources", l.Resources)
	c.devices(l.Devices)
	c.netDevices(l)
	c.seccomp(l.Seccomp)
	c.paths("linux.maskedPaths", l.MaskedPaths)
	c.paths("linux.readonlyPaths", l.ReadonlyPaths)
	c.text("linux.mountLabel", l.MountLabel, maxPath)
	if l.RootfsPropagation != "" {
		c.oneOf("linux.rootfsPropagation", l.RootfsPropagation, "shared", "slave", "private", "unbindable",
			"rshared", "rslave", "rprivate", "runbindable")
	}
	c.personality(l.Personality)
	c.memoryPolicy(l.MemoryPolicy)
	c.intelRdt(l.IntelRdt)
	c.timeOffsets(l)
}

func (c *checker) namespaces(l *specs.Linux) {
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, ns := range l.Namespaces {
		at := fmt.Sprintf("linux.namespaces[%d]", i)
		if i == 2*len(namespaceTypes) {
			c.errorf("linux.namespaces", "%d entries", len(l.Namespaces))
			return
		}
		switch {
		case !slices.Contains(namespaceTypes, string(ns.Type)):
			c.errorf(at+".type", "unknown namespace %q", clip(string(ns.Type)))
		case seen[ns.Type]:
			c.errorf(at+".type", "%s is there twice", ns.Type)
		}
		seen[ns.Type] = true
		if ns.Path != "" {
			c.path(at+".path", ns.Path, true)
		}
	}
}

// identities checks the id mappings of the user namespace.
func (c *checker) identities(l *specs.Linux) {
	c.mappings("linux.uidMappings", l.UIDMappings)
	c.mappings("linux.gidMappings", l.GIDMappings)
	mapped := len(l.UIDMappings) > 0 || len(l.GIDMappings) > 0
	for _, ns := range l.Namespaces {
		if ns.Type != specs.UserNamespace {
			continue
		}
		if ns.Path == "" && (len(l.UIDMappings) == 0 || len(l.GIDMappings) == 0) {
			c.errorf("linux", "a new user namespace needs uidMappings and gidMappings")
		}
		return
	}
	if mapped {
		c.errorf("linux", "uidMappings and gidMappings need a user namespace in linux.namespaces")
	}
}

// mappings checks a list of id mappings: none empty, none beyond the last id, no id of the container mapped twice.
func (c *checker) mappings(at string, list []specs.LinuxIDMapping) {
	if !c.count(at, len(list), maxMappings) {
		return
	}
	for i, m := range list {
		each := fmt.Sprintf("%s[%d]", at, i)
		switch {
		case m.Size == 0:
			c.errorf(each+".size", "0 ids")
			continue
		case end(m.ContainerID, m.Size) > math.MaxUint32 || end(m.HostID, m.Size) > math.MaxUint32:
			c.errorf(each, "goes beyond the last id")
			continue
		}
		for j, o := range list[:i] {
			if overlap(m.ContainerID, o.ContainerID, m.Size, o.Size) || overlap(m.HostID, o.HostID, m.Size, o.Size) {
				c.errorf(each, "overlaps with %s[%d]", at, j)
				break
			}
		}
	}
}

func end(first, size uint32) uint64 { return uint64(first) + uint64(size) }

func overlap(a, b, sizeA, sizeB uint32) bool {
	return uint64(a) < end(b, sizeB) && uint64(b) < end(a, sizeA)
}

// paths checks a list of absolute paths.
func (c *checker) paths(at string, list []string) {
	if !c.count(at, len(list), maxEntries) {
		return
	}
	for i, p := range list {
		c.path(fmt.Sprintf("%s[%d]", at, i), p, true)
	}
}

// ipcSysctls are the sysctls outside fs.mqueue that belong to an IPC namespace.
var ipcSysctls = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni",
	"kernel.shm_rmid_forced",
}

// sysctls checks that every sysctl belongs to a namespace of the container, as the others would change the host.
func (c *checker) sysctls(l *specs.Linux) {
	if !c.count("linux.sysctl", len(l.Sysctl), maxEntries) {
		return
	}
	for _, key := range sortedKeys(l.Sysctl) {
		at := "linux.sysctl." + clip(key)
		if !c.text(at, key, 255) || !c.text(at, l.Sysctl[key], maxPath) {
			continue
		}
		need := sysctlNamespace(strings.ReplaceAll(key, "/", "."))
		switch {
		case key == "" || strings.Contains(key, ".."):
			c.errorf(at, "not a sysctl")
		case need == "":
			c.errorf(at, "belongs to no namespace and would change the host")
		case !hasNamespace(l, need):
			c.errorf(at, "needs a %s namespace in linux.namespaces", need)
		}
	}
}

// sysctlNamespace returns the type of namespace a sysctl belongs to, or "" when it is the whole machine's.
func sysctlNamespace(key string) specs.LinuxNamespaceType {
	switch {
	case strings.HasPrefix(key, "net."):
		return specs.NetworkNamespace
	case strings.HasPrefix(key, "fs.mqueue.") || slices.Contains(ipcSysctls, key):
		return specs.IPCNamespace
	case key == "kernel.hostname" || key == "kernel.domainname":
		return specs.UTSNamespace
	case strings.HasPrefix(key, "user."):
		return specs.UserNamespace
	}
	return ""
}

func (c *checker) devices(devices []specs.LinuxDevice) {
	if !c.count("linux.devices", len(devices), maxEntries) {
		return
	}
	for i, d := range devices {
		at := fmt.Sprintf("linux.devices[%d]", i)
		c.path(at+".path", d.Path, true)
		c.oneOf(at+".type", d.Type, "c", "b", "u", "p")
		if d.Type != "p" {
			c.between(at+".major", d.Major, 0, 1<<12-1)
			c.between(at+".minor", d.Minor, 0, 1<<20-1)
		}
		if d.FileMode != nil && *d.FileMode&^0o177777 != 0 { // engines write the st_mode of the host's device, inode(7)
			c.errorf(at+".fileMode", "%#o is not a mode of a file", uint32(*d.FileMode))
		}
	}
}

// between checks a number's range, both ends included.
func (c *checker) between(at string, v, low, high int64) {
	if v < low || v > high {
		c.errorf(at, "%d is not between %d and %d", v, low, high)
	}
}
