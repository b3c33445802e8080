package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// family knows the processes that this program has started, and adopts what they leave behind, as a host's init does. So
// every process of every host is a descendant of this one and can be found, whatever happened to those in between.
type family struct {
	mu   sync.Mutex
	mine map[int]bool // started by start, waited for by exec.Cmd
}

var processes = &family{mine: map[int]bool{}}

// Adopt makes this process the reaper of its descendants. It is called once, before the first command.
func Adopt() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become reaper of descendants: %w", err)
	}
	died := make(chan os.Signal, 1)
	signal.Notify(died, unix.SIGCHLD)
	go func() {
		for range died {
			processes.reap()
		}
	}()
	return nil
}

// start starts cmd as one of ours; exec.Cmd.Wait waits for it.
func (f *family) start(cmd *exec.Cmd) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	f.mine[cmd.Process.Pid] = true
	return nil
}

// wait is cmd.Wait for a command that start started.
func (f *family) wait(cmd *exec.Cmd) error {
	err := cmd.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.mine, cmd.Process.Pid)
	return err
}

// reap takes the zombies of adopted processes away.
func (f *family) reap() {
	f.mu.Lock()
	defer f.mu.Unlock()
	all, err := readProcesses()
	if err != nil {
		return
	}
	for _, p := range all {
		if p.PPid == os.Getpid() && p.State == 'Z' && !f.mine[p.Pid] {
			var status unix.WaitStatus
			unix.Wait4(p.Pid, &status, unix.WNOHANG, nil)
		}
	}
}

// Process is one line of ps.
type Process struct {
	Pid, PPid int
	State     byte
	Start     uint64 // ticks since boot: with Pid it names the process for good
	Comm      string
	Args      string // the command line, or Comm in brackets
	NetNS     uint64 // inode, 0 for a zombie
}

func (p Process) String() string {
	return fmt.Sprintf("%d (parent %d, %c) %s", p.Pid, p.PPid, p.State, p.Args)
}

// readProcesses lists the machine's processes. Those that end meanwhile are left out.
func readProcesses() ([]Process, error) {
	names, err := readDirNames("/proc")
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

func readDirNames(path string) ([]string, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

func readProcess(pid int) (Process, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	data, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return Process{}, err
	}
	open, end := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if open < 0 || end < 0 || len(fields) < 20 {
		return Process{}, fmt.Errorf("read %s/stat: %q", dir, data)
	}
	p := Process{Pid: pid, State: fields[0][0], Comm: string(data[open+1 : end])}
	p.PPid, _ = strconv.Atoi(fields[1])
	p.Start, _ = strconv.ParseUint(fields[19], 10, 64)
	args, _ := os.ReadFile(dir + "/cmdline")
	p.Args = strings.TrimSpace(strings.ReplaceAll(string(args), "\x00", " "))
	if p.Args == "" {
		p.Args = "[" + p.Comm + "]"
	}
	var st unix.Stat_t
	if unix.Stat(dir+"/ns/net", &st) == nil {
		p.NetNS = st.Ino
	}
	return p, nil
}

// descendants is every process below this one.
func descendants() ([]Process, error) {
	all, err := readProcesses()
	if err != nil {
		return nil, err
	}
	children := map[int][]Process{}
	for _, p := range all {
		children[p.PPid] = append(children[p.PPid], p)
	}
	var found []Process
	for queue := []int{os.Getpid()}; len(queue) > 0; queue = queue[1:] {
		for _, c := range children[queue[0]] {
			found = append(found, c)
			queue = append(queue, c.Pid)
		}
	}
	return found, nil
}

// signalProcess sends sig to p, and to no other process that has its pid by now.
func signalProcess(p Process, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.Pid, err)
	}
	defer unix.Close(fd)
	if now, err := readProcess(p.Pid); err != nil || now.Start != p.Start {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %v: %w", p, err)
	}
	return nil
}
