package preflight

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/zap-migrate/zap/spec"
)

// Codes of the blockers that this package finds.
const (
	BlockSession    = "session"          // processes of the cgroup that are not the pod's
	BlockNamespace  = "namespace"        // a process with namespaces of its own, or a descriptor of a foreign namespace
	BlockTraced     = "traced"           // a debugger
	BlockProcess    = "process"          // a process in a state that CRIU can't save
	BlockDescriptor = "descriptor"       // a kernel object that CRIU does not know
	BlockIOUring    = "io-uring"         // likewise, and so on
	BlockUffd       = "userfaultfd"      //
	BlockPerf       = "perf"             //
	BlockBPF        = "bpf"              //
	BlockKVM        = "kvm"              //
	BlockFuse       = "fuse"             //
	BlockSecretMem  = "secret-memory"    //
	BlockPidfd      = "pidfd"            // of a thread, or of a process outside
	BlockSeccomp    = "seccomp-listener" //
	BlockLimits     = "limits"           // of resources, that CRIU may not read
	BlockDevice     = "device"           // an open or mapped device
	BlockSocket     = "socket"           // a kind or state of socket that CRIU refuses
	BlockModule     = spec.BlockModule   // of the kernel, that is not loaded
	BlockUnix       = "unix-socket"      // mostly: its other end is outside
	BlockPipe       = "pipe"             //
	BlockTerminal   = "terminal"         //
	BlockFile       = "file"             // a file outside of the pod's mounts, or hidden by one
	BlockGhost      = "deleted-file"     // too large for CRIU
	BlockMapping    = "mapping"          // memory that CRIU can't save
	BlockQueue      = "message-queue"    // POSIX
	BlockWatch      = "watch"            // inotify or fanotify, of something that can't be named
)

// finding is one reason, before those of several processes are put together.
type finding struct {
	code    string
	process *process // nil: the pod as a whole
	fd      int      // negative: none
	what    string   // instead of or after process and descriptor: a path, an address
	detail  string
	hint    string
	passing bool // likely to be gone in a moment
}

// key says whether two findings are the same in two looks.
func (f *finding) key() string {
	pid := 0
	if f.process != nil {
		pid = f.process.pid
	}
	return fmt.Sprint(f.code, pid, f.fd, f.what)
}

// confirm returns the findings of the second look that were there in the first.
func confirm(first, second []finding) []finding {
	seen := make(map[string]bool, len(first))
	for i := range first {
		seen[first[i].key()] = true
	}
	return slices.DeleteFunc(second, func(f finding) bool { return !seen[f.key()] })
}

// subject names a finding's process and descriptor.
func (f *finding) subject(others int) string {
	s := f.what
	if f.process != nil {
		s = f.process.String()
		if f.fd >= 0 {
			s += fmt.Sprintf(", descriptor %d", f.fd)
		}
		if f.what != "" {
			s += ", " + f.what
		}
	}
	switch {
	case others == 1:
		s += " (and in another process)"
	case others > 1:
		s += fmt.Sprintf(" (and in %d other processes)", others)
	}
	return s
}

// report turns findings into blockers, by process and descriptor. What several processes have alike, as children inherit
// it, becomes one blocker, in the name of the first of them.
func report(found []finding) []spec.Blocker {
	slices.SortStableFunc(found, func(a, b finding) int {
		return cmp.Or(cmp.Compare(a.process.number(), b.process.number()), cmp.Compare(a.fd, b.fd))
	})
	type likeness struct {
		code, what, detail string
		fd                 int
	}
	var out []spec.Blocker
	var groups []likeness
	firsts := map[likeness]*finding{}
	count := map[likeness]int{}
	for i := range found {
		f := &found[i]
		l := likeness{f.code, f.what, f.detail, f.fd}
		if firsts[l] == nil {
			firsts[l] = f
			groups = append(groups, l)
		}
		count[l]++
	}
	for _, l := range groups {
		f := firsts[l]
		out = append(out, spec.Blocker{Code: f.code, Subject: f.subject(count[l] - 1), Detail: f.detail, Hint: f.hint})
	}
	return out
}
