package preflight

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// process is one process of the pod's cgroup.
type process struct {
	pid    int // on the host
	inner  int // in the pod's pid namespace, once [process.setLevel] has said which one that is
	name   string
	state  byte
	parent int // on the host
	tracer int // on the host; 0: none
	// In each pid namespace that it is in, from the host's down: its number and that of its session, which is 0 where the
	// session's leader can't be seen.
	pids, sessions []int
	threads        int
	filtered       bool              // it has a seccomp filter
	users, groups  []int             // real, effective, saved and of the file system, on the host
	namespaces     map[string]string // by the names in /proc/PID/ns

	dir    int // /proc/PID
	handle int // pidfd, -1 before it is needed
}

// String names the process as the pod sees it.
func (p *process) String() string { return fmt.Sprintf("process %d (%s)", p.inner, p.name) }

// setLevel says how many pid namespaces down the pod's is: the host's is 0.
func (p *process) setLevel(level int) { p.inner = p.pids[min(level, len(p.pids)-1)] }

// ownedBy says whether all ids of the process are these, of which prlimit(2) looks at the first three.
func (p *process) ownedBy(uid, gid int) bool {
	for i := range min(len(p.users), len(p.groups), 3) {
		if p.users[i] != uid || p.groups[i] != gid {
			return false
		}
	}
	return true
}

// sessionOutside says whether the leader of the process's session is not in the pid namespace of this level.
func (p *process) sessionOutside(level int) bool {
	return level < len(p.sessions) && p.sessions[level] == 0
}

// number is for sorting; what is no process's comes first.
func (p *process) number() int {
	if p == nil {
		return -1
	}
	return p.inner
}

// namespaceKinds are the namespaces of which a pod has one each. The last is what a process's children get.
var namespaceKinds = []string{"pid", "net", "mnt", "ipc", "uts", "user", "cgroup", "time", "time_for_children"}

// openProcess reads what is known of a process. The error is one of [gone] when it has ended.
func openProcess(pid int) (*process, error) {
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /proc/%d: %w", pid, err)
	}
	p := &process{pid: pid, dir: dir, handle: -1, namespaces: make(map[string]string, len(namespaceKinds))}
	text, err := readAt(dir, "status")
	if err == nil {
		err = p.parseStatus(text)
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("read /proc/%d/status: %w", pid, err)
	}
	for _, kind := range namespaceKinds {
		// A zombie has no namespaces, an older kernel not all of them.
		if link, err := readlinkAt(dir, "ns/"+kind); err == nil {
			p.namespaces[kind] = link
		}
	}
	return p, nil
}

func (p *process) close() {
	unix.Close(p.dir)
	if p.handle >= 0 {
		unix.Close(p.handle)
	}
}

// parseStatus reads a /proc/PID/status (proc(5)).
func (p *process) parseStatus(text string) error {
	for line := range strings.SplitSeq(text, "\n") {
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		var err error
		switch key {
		case "Name":
			p.name = value
		case "State":
			if value != "" {
				p.state = value[0]
			}
		case "PPid":
			p.parent, err = strconv.Atoi(value)
		case "TracerPid":
			p.tracer, err = strconv.Atoi(value)
		case "Threads":
			p.threads, err = strconv.Atoi(value)
		case "Seccomp":
			p.filtered = value != "0"
		case "Uid":
			p.users, err = integers(value)
		case "Gid":
			p.groups, err = integers(value)
		case "NSpid":
			p.pids, err = integers(value)
		case "NSsid":
			p.sessions, err = integers(value)
		}
		if err != nil {
			return fmt.Errorf("line %q: %w", line, err)
		}
	}
	if len(p.pids) == 0 || p.state == 0 {
		return errors.New("no NSpid or State in it")
	}
	p.setLevel(len(p.pids) - 1)
	return nil
}

// integers reads numbers separated by space.
func integers(words string) ([]int, error) {
	var out []int
	for _, word := range strings.Fields(words) {
		n, err := strconv.Atoi(word)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

// zombie says whether nothing is left of the process but its exit status.
func (p *process) zombie() bool { return p.state == 'Z' || p.state == 'X' }

// borrow returns a copy of descriptor fd of the process.
func (p *process) borrow(fd int) (int, error) {
	if p.handle < 0 {
		h, err := unix.PidfdOpen(p.pid, 0)
		if err != nil {
			return -1, fmt.Errorf("pidfd_open %d: %w", p.pid, err)
		}
		p.handle = h
	}
	own, err := unix.PidfdGetfd(p.handle, fd, 0)
	if err != nil {
		return -1, fmt.Errorf("pidfd_getfd %d of process %d: %w", fd, p.pid, err)
	}
	return own, nil
}

// gone says whether an error means that a process, or what it had, is not there any more.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EBADF)
}
