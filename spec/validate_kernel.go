package spec

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// linux checks the part of a specification that is about namespaces, ids, devices, resources and filters.
func (c *checker) linux(s *specs.Spec) {
	l := s.Linux
	if l == nil {
		return
	}
	c.namespaces(l)
	c.mappings("linux.uidMappings", l.UIDMappings)
	c.mappings("linux.gidMappings", l.GIDMappings)
	for i, p := range l.MaskedPaths {
		c.path(fmt.Sprintf("linux.maskedPaths[%d]", i), p, true)
	}
	for i, p := range l.ReadonlyPaths {
		c.path(fmt.Sprintf("linux.readonlyPaths[%d]", i), p, true)
	}
}

func (c *checker) namespaces(l *specs.Linux) {
	known := []string{
		string(specs.PIDNamespace), string(specs.NetworkNamespace), string(specs.MountNamespace),
		string(specs.IPCNamespace), string(specs.UTSNamespace), string(specs.UserNamespace),
		string(specs.CgroupNamespace), string(specs.TimeNamespace),
	}
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, ns := range l.Namespaces {
		at := fmt.Sprintf("linux.namespaces[%d]", i)
		c.oneOf(at+".type", string(ns.Type), known...)
		if seen[ns.Type] {
			c.errorf(at+".type", "%s is there twice", clip(string(ns.Type)))
			return
		}
		seen[ns.Type] = true
		if ns.Path != "" {
			c.path(at+".path", ns.Path, true)
		}
	}
}

// mappings checks a list of id mappings.
func (c *checker) mappings(at string, list []specs.LinuxIDMapping) {
	if !c.count(at, len(list), maxMappings) {
		return
	}
	for i, m := range list {
		at := fmt.Sprintf("%s[%d]", at, i)
		switch {
		case m.Size == 0:
			c.errorf(at+".size", "0 ids")
		case uint64(m.ContainerID)+uint64(m.Size) > 1<<32-1 || uint64(m.HostID)+uint64(m.Size) > 1<<32-1:
			c.errorf(at, "goes beyond the last id")
		}
	}
}
