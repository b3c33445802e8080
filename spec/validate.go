package spec

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Bounds on what a specification may hold. Where the kernel has a limit it is the kernel's; the others are far above what
// any real container has and keep a hostile file from costing time and memory.
const (
	maxPath      = 4095    // PATH_MAX without the terminating zero
	maxArg       = 131071  // MAX_ARG_STRLEN without the terminating zero: one argument or variable
	maxArgs      = 6 << 20 // all arguments and variables together: three quarters of the kernel's _STK_LIM
	maxHostname  = 64      // __NEW_UTS_LEN
	maxMounts    = 4096
	maxEntries   = 65536 // supplementary groups (NGROUPS_MAX), devices, rules, paths
	maxMappings  = 340   // UID_GID_MAP_MAX_EXTENTS
	maxInterface = 15    // IFNAMSIZ without the terminating zero
	maxReported  = 20    // errors that Validate reports before it stops
)

// FieldError is one thing wrong with a specification.
type FieldError struct {
	// Path is the JSON path of the field in config.json, such as mounts[3].destination.
	Path string
	// Problem says what is wrong, without a final stop.
	Problem string
}

// Error returns for instance "config.json: process.args: empty".
func (e *FieldError) Error() string {
	return ConfigName + ": " + e.Path + ": " + e.Problem
}

// checker collects the problems of one specification.
type checker struct {
	found []error
}

// errorf records a problem at a JSON path.
func (c *checker) errorf(at, format string, args ...any) {
	if len(c.found) < maxReported {
		c.found = append(c.found, &FieldError{Path: at, Problem: fmt.Sprintf(format, args...)})
	}
}

// Validate checks everything in a specification that does not depend on the machine it will run on: what is missing, out of
// range, contradictory or absurdly large. It returns nil or the problems joined into one error, each a *FieldError, in the
// order of the file and at most twenty of them.
func Validate(s *specs.Spec) error {
	c := new(checker)
	if s == nil {
		c.errorf("", "missing")
		return errors.Join(c.found...)
	}
	c.version(s.Version)
	if s.Process == nil {
		c.errorf("process", "missing")
	} else {
		c.process("process", s.Process)
	}
	c.root(s)
	c.names(s)
	c.mounts(s)
	c.hooks(s.Hooks)
	c.annotations(s.Annotations)
	c.linux(s)
	return errors.Join(c.found...)
}

// ValidateProcess checks a process specification of its own, as `exec --process` takes it. The paths in the errors begin with
// "process".
func ValidateProcess(p *specs.Process) error {
	c := new(checker)
	if p == nil {
		c.errorf("process", "missing")
	} else {
		c.process("process", p)
	}
	return errors.Join(c.found...)
}

// version checks ociVersion: zap knows version 1 of the specification, whatever its minor number.
func (c *checker) version(v string) {
	switch {
	case v == "":
		c.errorf("ociVersion", "missing")
	case len(v) > 64:
		c.errorf("ociVersion", "longer than 64 bytes")
	case !isVersion(v):
		c.errorf("ociVersion", "%q is not a version", v)
	case !strings.HasPrefix(v, "1."):
		c.errorf("ociVersion", "version %s is not supported, only 1.x", v)
	}
}

// isVersion says whether v is three numbers with a dot between them, and maybe more behind a dash, plus or dot, as in 1.0.2-dev.
func isVersion(v string) bool {
	digit := func(r rune) bool { return r >= '0' && r <= '9' }
	word := func(r rune) bool {
		return digit(r) || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '.' || r == '+' || r == '-'
	}
	for part := range 3 {
		rest := strings.TrimLeftFunc(v, digit)
		switch {
		case len(rest) == len(v):
			return false
		case part == 2:
			return rest == "" || len(rest) > 1 && strings.ContainsRune("-+.", rune(rest[0])) && strings.TrimLeftFunc(rest[1:], word) == ""
		case !strings.HasPrefix(rest, "."):
			return false
		}
		v = rest[1:]
	}
	return false
}

func (c *checker) root(s *specs.Spec) {
	if s.Root == nil {
		c.errorf("root", "missing")
		return
	}
	c.path("root.path", s.Root.Path, false)
}

// names checks the host and domain name, which need a UTS namespace that is not the host's.
func (c *checker) names(s *specs.Spec) {
	for _, f := range []struct{ at, name string }{{"hostname", s.Hostname}, {"domainname", s.Domainname}} {
		if f.name == "" {
			continue
		}
		c.text(f.at, f.name, maxHostname)
		if !hasNamespace(s.Linux, specs.UTSNamespace) {
			c.errorf(f.at, "needs a uts namespace in linux.namespaces")
		}
	}
}

func (c *checker) mounts(s *specs.Spec) {
	if !c.count("mounts", len(s.Mounts), maxMounts) {
		return
	}
	for i := range s.Mounts {
		m, at := &s.Mounts[i], fmt.Sprintf("mounts[%d]", i)
		c.path(at+".destination", m.Destination, false) // one that is not absolute begins at the root
		c.text(at+".type", m.Type, 255)
		c.text(at+".source", m.Source, maxPath)
		if c.count(at+".options", len(m.Options), 1024) {
			for j, o := range m.Options {
				c.text(fmt.Sprintf("%s.options[%d]", at, j), o, 65535)
			}
		}
		if isBind(m) && m.Source == "" && !slices.Contains(m.Options, "remount") {
			c.errorf(at+".source", "empty, and a bind mount needs one")
		}
		if (len(m.UIDMappings) == 0) != (len(m.GIDMappings) == 0) {
			c.errorf(at, "uidMappings and gidMappings go together")
		}
		c.mappings(at+".uidMappings", m.UIDMappings)
		c.mappings(at+".gidMappings", m.GIDMappings)
		c.mapped(at, m, s.Linux)
	}
}

// mapped checks what an id-mapped mount needs, and that a mount which is none has a type.
func (c *checker) mapped(at string, m *specs.Mount, l *specs.Linux) {
	users := hasNamespace(l, specs.UserNamespace)
	asked, kept := len(m.UIDMappings) > 0, false
	for j, o := range m.Options {
		if (o == "idmap" || o == "ridmap") && len(m.UIDMappings) == 0 && !users {
			c.errorf(fmt.Sprintf("%s.options[%d]", at, j), "%s needs uidMappings and gidMappings, or a user namespace in linux.namespaces", o)
		}
		asked = asked || o == "idmap" || o == "ridmap"
		kept = kept || o == "remount"
	}
	switch {
	case asked && users && !isBind(m):
		c.errorf(at, "only a bind mount can be id-mapped in a container with a user namespace")
	case asked && kept:
		c.errorf(at, "the ids of a mount that is there can't be mapped")
	case m.Type == "" && !isBind(m) && !kept:
		c.errorf(at+".type", "empty, and it is no bind mount")
	}
}

// isBind says whether a mount is a bind mount: by its type or by its options.
func isBind(m *specs.Mount) bool {
	if m.Type == "bind" {
		return true
	}
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}

func (c *checker) hooks(h *specs.Hooks) {
	if h == nil {
		return
	}
	for _, l := range []struct {
		name  string
		hooks []specs.Hook
	}{
		//lint:ignore SA1019 deprecated in the specification, still part of it
		{"prestart", h.Prestart},
		{"createRuntime", h.CreateRuntime},
		{"createContainer", h.CreateContainer},
		{"startContainer", h.StartContainer},
		{"poststart", h.Poststart},
		{"poststop", h.Poststop},
	} {
		if !c.count("hooks."+l.name, len(l.hooks), 256) {
			continue
		}
		for i, hook := range l.hooks {
			at := fmt.Sprintf("hooks.%s[%d]", l.name, i)
			c.path(at+".path", hook.Path, true)
			c.strings(at+".args", hook.Args)
			c.environment(at+".env", hook.Env)
			if hook.Timeout != nil && (*hook.Timeout <= 0 || *hook.Timeout > math.MaxInt32) {
				c.errorf(at+".timeout", "%d is not a positive number of seconds", *hook.Timeout)
			}
		}
	}
}

func (c *checker) annotations(a map[string]string) {
	if !c.count("annotations", len(a), maxEntries) {
		return
	}
	for _, k := range sortedKeys(a) {
		if k == "" {
			c.errorf("annotations", "a key is empty")
		}
	}
}

// path checks a path: not empty, no longer than the kernel takes, without a zero byte, and absolute where it has to be.
func (c *checker) path(at, p string, absolute bool) {
	switch {
	case p == "":
		c.errorf(at, "empty")
	case !c.text(at, p, maxPath):
	case absolute && !path.IsAbs(p):
		c.errorf(at, "%q is not an absolute path", p)
	}
}

// text checks a string's length in bytes and that it has no zero byte.
func (c *checker) text(at, s string, limit int) bool {
	if len(s) > limit {
		c.errorf(at, "longer than %d bytes", limit)
		return false
	}
	if strings.IndexByte(s, 0) >= 0 {
		c.errorf(at, "contains a zero byte")
		return false
	}
	return true
}

// count checks the length of a list.
func (c *checker) count(at string, n, limit int) bool {
	if n > limit {
		c.errorf(at, "%d entries, more than %d", n, limit)
		return false
	}
	return true
}

// strings checks a list of arguments or variables as execve would: each for itself and all of them together.
func (c *checker) strings(at string, list []string) bool {
	total := 0
	for _, s := range list {
		total += len(s) + 9 // the zero byte and a pointer
	}
	if total > maxArgs {
		c.errorf(at, "longer than %d bytes together", maxArgs)
		return false
	}
	for i, s := range list {
		if len(s) > maxArg || strings.IndexByte(s, 0) >= 0 {
			c.text(fmt.Sprintf("%s[%d]", at, i), s, maxArg)
		}
	}
	return true
}

// environment checks variables: each must be NAME=VALUE.
func (c *checker) environment(at string, env []string) {
	if !c.strings(at, env) {
		return
	}
	for i, e := range env {
		switch strings.IndexByte(e, '=') {
		case -1:
			c.errorf(fmt.Sprintf("%s[%d]", at, i), "%q has no =", clip(e))
		case 0:
			c.errorf(fmt.Sprintf("%s[%d]", at, i), "%q has no name before the =", clip(e))
		}
	}
}

// clip shortens a string for an error message.
func clip(s string) string {
	const limit = 64
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}

// hasNamespace says whether a specification gives the container a namespace of a type, new or joined by path.
func hasNamespace(l *specs.Linux, t specs.LinuxNamespaceType) bool {
	if l == nil {
		return false
	}
	for _, ns := range l.Namespaces {
		if ns.Type == t {
			return true
		}
	}
	return false
}
