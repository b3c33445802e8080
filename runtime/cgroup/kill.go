package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// KillNow sends SIGKILL to every process of the group and its children and returns at once. It does not thaw: frozen
// processes of v1 die when they are thawed, before they run another instruction of their own. Where the host has a v2 tree
// this is one write that reaches processes being forked as well; on v1 alone a process that is just being forked can be
// missed unless the group is frozen.
func (c *Cgroup) KillNow() error {
	if err := c.Signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("kill cgroup %s: %w", c.path, errors.Unwrap(err))
	}
	return nil
}

// Signal sends a signal to every process of the group and its children, as Procs lists them. Processes that have gone
// meanwhile don't count. The caller itself is left out when it is in the group, except of SIGKILL where there is a v2 tree.
func (c *Cgroup) Signal(sig unix.Signal) error {
	whole := false
	if h := c.tree(""); h != nil && sig == unix.SIGKILL {
		whole = writeFile(c.dir(h)+"/cgroup.kill", "1") == nil
	}
	if whole && len(c.trees) == 1 {
		return nil
	}
	if _, err := c.signalListed(sig); err != nil {
		return fmt.Errorf("signal cgroup %s: %w", c.path, err)
	}
	return nil
}

// signalListed sends a signal to the processes that the primary hierarchy lists and returns how many there were. Those in
// pid namespaces that this process does not see (listed as 0) cannot be signalled from here: kill(0) would hit the caller.
func (c *Cgroup) signalListed(sig unix.Signal) (int, error) {
	pids, err := walkPids(c.dir(c.primary()), nil, 0)
	if err != nil && !gone(err) {
		return 0, err
	}
	self := os.Getpid()
	for _, pid := range pids {
		if pid <= 0 || pid == self {
			continue
		}
		if e := unix.Kill(pid, sig); e != nil && e != unix.ESRCH && err == nil {
			err = fmt.Errorf("kill process %d with %s: %w", pid, unix.SignalName(sig), e)
		}
	}
	if gone(err) {
		err = nil
	}
	return len(pids), err
}

// Kill kills every process of the group and its children with SIGKILL, frozen ones too, and returns when none is left in
// any hierarchy. A group that forks faster than it can be listed is frozen, killed and thawed. The error of a ctx that ends
// before names the processes that remain.
func (c *Cgroup) Kill(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	pause := 50 * time.Microsecond
	for round := 0; ; round++ {
		pids, err := c.allProcs()
		if err != nil {
			return fmt.Errorf("kill cgroup %s: %w", c.path, err)
		}
		if len(pids) == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("kill cgroup %s: %w (remain: %s)", c.path, context.Cause(ctx), c.describe(anyState))
		}
		if err := c.killRound(ctx, round, pids); err != nil {
			return fmt.Errorf("kill cgroup %s: %w", c.path, err)
		}
		time.Sleep(pause)
		pause = min(pause*3/2, 5*time.Millisecond)
	}
}

// killRound signals everything once. From the eighth round on, some milliseconds later, it stops the group around it, so that
// nobody can be born unseen.
func (c *Cgroup) killRound(ctx context.Context, round int, pids []int) error {
	f, ferr := c.freezer()
	if round >= 8 && round%8 == 0 && ferr == nil && !f.v2 {
		short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		_ = f.set(short, true) // as far as it gets
		cancel()
	}
	if err := c.Signal(unix.SIGKILL); err != nil {
		return err
	}
	self := os.Getpid()
	for _, pid := range pids { // those of other hierarchies
		if pid > 0 && pid != self {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	if ferr == nil && !f.v2 {
		if err := writeFile(f.control, f.thaw); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

// running and anyState choose the processes that describe lists by their state in /proc/PID/stat.
func running(state byte) bool  { return state == 'R' || state == 'D' }
func anyState(state byte) bool { return true }

// describe lists processes of the group for an error message: pid, name and state, at most ten.
func (c *Cgroup) describe(want func(state byte) bool) string {
	pids, err := c.allProcs()
	if err != nil {
		return ""
	}
	var out []string
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if errors.Is(err, fs.ErrNotExist) && pid != 0 {
			continue
		}
		s := string(stat)
		from, to := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
		if from < 0 || to < from || to+2 >= len(s) {
			out = append(out, fmt.Sprint(pid))
			continue
		}
		if want(s[to+2]) {
			out = append(out, fmt.Sprintf("%d (%s, state %c)", pid, s[from+1:to], s[to+2]))
		}
		if len(out) == 10 {
			out = append(out, "...")
			break
		}
	}
	return strings.Join(out, ", ")
}
