package preflight

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime"
)

// scan is one look at a pod.
type scan struct {
	init    *process
	procs   []*process // the pod's tree, parents first, in the order in which CRIU goes through it
	outside []*process // of its cgroup, but not of its tree

	streams map[string]bool // names of the standard streams
	plan    *runtime.MountPlan
	mounts  mountTable
	root    int    // the pod's root directory
	memory  uint64 // device of the kernel's own tmpfs, which has memfds and shared memory
	net     *netView

	pipes     map[fileKey]*pipe
	seen      map[uint64]bool // sockets, by inode
	sockets   map[uint64]*unixSocket
	diag      map[string]bool      // modules of the kernel that were asked for
	host      map[uint32]*unixInfo // unix sockets of the host, once they are needed
	terminals terminals
	mapped    map[fileKey]*mapped
	watches   []watch
	found     []finding
}

// fileKey tells files apart.
type fileKey struct{ dev, ino uint64 }

// newScan reads the processes of the pod and what they have in common.
func newScan(init int, pids []int, streams [3]string, plan *runtime.MountPlan) (s *scan, err error) {
	s = &scan{
		streams: map[string]bool{}, plan: plan, root: -1, pipes: map[fileKey]*pipe{}, sockets: map[uint64]*unixSocket{}, seen: map[uint64]bool{},
		mapped: map[fileKey]*mapped{},
	}
	if s.plan == nil {
		s.plan = &runtime.MountPlan{}
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	for _, name := range streams {
		s.streams[name] = name != ""
	}
	if err := s.openProcesses(init, pids); err != nil {
		return s, err
	}
	if s.root, err = openAt(s.init.dir, "root", unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return s, fmt.Errorf("open root of process %d: %w", init, err)
	}
	if s.mounts, err = readMounts(s.init.dir); err != nil {
		return s, fmt.Errorf("read mounts of process %d: %w", init, err)
	}
	if s.memory, err = memoryDevice(); err != nil {
		return s, err
	}
	s.net, err = openNetView(s.init)
	return s, err
}

// openProcesses reads all processes and finds the pod's tree among them.
func (s *scan) openProcesses(init int, pids []int) error {
	var all []*process
	for _, pid := range pids {
		p, err := openProcess(pid)
		switch {
		case err == nil:
			all = append(all, p)
		case !gone(err):
			s.outside = all // for close
			return err
		}
	}
	s.procs, s.outside = tree(init, all)
	if len(s.procs) == 0 || s.procs[0].zombie() {
		return fmt.Errorf("process %d: it has ended or is not in the pod's cgroup", init)
	}
	s.init = s.procs[0]
	for _, p := range all {
		p.setLevel(s.level())
	}
	return nil
}

// level is how many pid namespaces below the host's the pod's is.
func (s *scan) level() int { return len(s.init.pids) - 1 }

// tree returns the processes that descend from init, parents first and siblings in the order of their start, and the rest.
func tree(init int, all []*process) (inside, outside []*process) {
	slices.SortFunc(all, func(a, b *process) int { return cmp.Compare(a.pid, b.pid) })
	children := map[int][]*process{}
	var first *process
	for _, p := range all {
		if p.pid == init {
			first = p
			continue
		}
		children[p.parent] = append(children[p.parent], p)
	}
	in := map[*process]bool{}
	var add func(p *process)
	add = func(p *process) {
		in[p] = true
		inside = append(inside, p)
		for _, c := range children[p.pid] {
			add(c)
		}
	}
	if first != nil {
		add(first)
	}
	for _, p := range all {
		if !in[p] {
			outside = append(outside, p)
		}
	}
	return inside, outside
}

func (s *scan) close() {
	for _, p := range append(s.procs, s.outside...) {
		p.close()
	}
	if s.root >= 0 {
		unix.Close(s.root)
	}
	if s.net != nil {
		s.net.close()
	}
}

func (s *scan) add(f finding) { s.found = append(s.found, f) }

// look goes through the pod.
func (s *scan) look() error {
	s.lookAtSessions()
	for _, p := range s.procs {
		s.lookAtProcess(p)
		if p.zombie() {
			continue
		}
		steps := []func(*process) error{s.lookAtThreads, s.lookAtPaths, s.lookAtDescriptors, s.lookAtMemory}
		if p.namespaces["mnt"] != s.init.namespaces["mnt"] {
			steps = steps[:1] // its files are not the pod's, and it can't stay anyway
		}
		for _, step := range steps {
			if err := step(p); err != nil && !gone(err) {
				return fmt.Errorf("%s: %w", p, err)
			}
		}
	}
	s.judgeFilters()
	s.lookAtQueues()
	s.judgeTerminals()
	if err := s.judgeUnixSockets(); err != nil {
		return err
	}
	s.judgePipes()
	s.judgeWatches()
	s.nameHolders()
	return nil
}

// lookAtSessions reports the processes of the cgroup that are not of the tree, by the one that started each.
func (s *scan) lookAtSessions() {
	all := map[int]*process{}
	for _, p := range s.outside {
		all[p.pid] = p
	}
	count := map[*process]int{}
	for _, p := range s.outside {
		top := p
		for range len(all) {
			if all[top.parent] == nil {
				break
			}
			top = all[top.parent]
		}
		count[top]++
	}
	for _, p := range s.outside {
		if count[p] == 0 {
			continue
		}
		detail := "it was started in the pod from outside, with exec, and would not be moved"
		if p.namespaces["pid"] != s.init.namespaces["pid"] && !p.zombie() {
			detail = "it is in the pod's cgroup, but not in its process tree, and would not be moved"
		}
		if n := count[p] - 1; n > 0 {
			detail += fmt.Sprintf(", nor would the %d below it", n)
		}
		s.add(finding{code: BlockSession, process: p, fd: -1, detail: detail, hint: "end it, or wait until it has ended"})
	}
}

// lookAtProcess judges what the status of a process says.
func (s *scan) lookAtProcess(p *process) {
	if p.sessionOutside(s.level()) {
		s.add(finding{
			code: BlockProcess, process: p, fd: -1, detail: "the leader of its session is not in the pod",
			hint: "start it with setsid",
		})
	}
	if p.zombie() {
		if p.threads > 1 {
			s.add(finding{
				code: BlockProcess, process: p, fd: -1, detail: "its first thread has ended while others run",
				hint: "restart the program, or wait until the process has ended",
			})
		}
		return
	}
	s.lookAtNamespaces(p)
}

// lookAtNamespaces reports namespaces that differ from those of the pod's first process.
func (s *scan) lookAtNamespaces(p *process) {
	var own []string
	for _, kind := range namespaceKinds[:len(namespaceKinds)-1] {
		if p.namespaces[kind] != s.init.namespaces[kind] {
			own = append(own, kind)
		}
	}
	if p.namespaces["time_for_children"] != p.namespaces["time"] {
		own = append(own, "time (for children)")
	}
	if len(own) > 0 {
		s.add(finding{
			code: BlockNamespace, process: p, fd: -1,
			detail: "it has namespaces of its own: " + strings.Join(own, ", "),
			hint:   "end the sandbox or container inside the pod, or run it without namespaces",
		})
	}
}

// lookAtThreads reports debuggers.
func (s *scan) lookAtThreads(p *process) error {
	tracer, traced := p.tracer, p.pid
	if tracer == 0 && p.threads > 1 {
		tids, err := numbers(p.dir, "task")
		if err != nil {
			return err
		}
		for _, tid := range tids {
			text, err := readAt(p.dir, "task/"+strconv.Itoa(tid)+"/status")
			if err != nil {
				continue // a thread that ended
			}
			if tracer = tracerOf(text); tracer != 0 {
				traced = tid
				break
			}
		}
	}
	if tracer != 0 {
		detail := "it is traced by " + nameOf(tracer)
		if traced != p.pid {
			detail = "one of its threads is traced by " + nameOf(tracer)
		}
		s.add(finding{code: BlockTraced, process: p, fd: -1, detail: detail, hint: "end the debugger or tracer"})
	}
	return nil
}

// tracerOf reads TracerPid from a status file.
func tracerOf(status string) int {
	_, rest, _ := strings.Cut(status, "\nTracerPid:")
	value, _, _ := strings.Cut(rest, "\n")
	n, _ := strconv.Atoi(strings.TrimSpace(value))
	return n
}

// nameOf names a process of the host.
func nameOf(pid int) string {
	comm, err := readAt(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("process %d of the host", pid)
	}
	return fmt.Sprintf("process %d (%s) of the host", pid, strings.TrimSpace(comm))
}

// lookAtPaths looks at the program, working and root directory of a process.
func (s *scan) lookAtPaths(p *process) error {
	for _, l := range []struct{ link, name string }{{"exe", "program"}, {"cwd", "working directory"}, {"root", "root directory"}} {
		f, err := statAt(p.dir, l.link)
		if errors.Is(err, unix.ENOENT) { // a kernel thread has no program
			continue
		}
		if err != nil {
			return err
		}
		path := func() string { t, _ := readlinkAt(p.dir, l.link); return t }
		s.judgeFile(finding{process: p, fd: -1, what: l.name}, &f, path)
	}
	return nil
}
