package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Freeze stops every process of the group and its children, and returns when all have stopped. When they have not by the
// end of ctx, the group is thawed again and the error names the processes that did not stop.
func (c *Cgroup) Freeze(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	f, err := c.freezer()
	if err != nil {
		return fmt.Errorf("freeze cgroup %s: %w", c.path, err)
	}
	if err := f.set(ctx, true); err != nil {
		stuck := c.describe(running)
		_ = writeFile(f.control, f.thaw)
		if stuck != "" {
			return fmt.Errorf("freeze cgroup %s: %w (still running: %s)", c.path, err, stuck)
		}
		return fmt.Errorf("freeze cgroup %s: %w", c.path, err)
	}
	return nil
}

// Thaw lets the processes of the group run again and returns when they do. It fails when a parent of the group is frozen.
func (c *Cgroup) Thaw(ctx context.Context) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	f, err := c.freezer()
	if err == nil {
		err = f.set(ctx, false)
	}
	if err != nil {
		return fmt.Errorf("thaw cgroup %s: %w", c.path, err)
	}
	return nil
}

// FreezeNow asks the freezer to stop the group and returns at once. What the group's processes do until they have stopped is
// not bounded; a process that is stopped otherwise, by ptrace for instance, will run into the freezer when it is let go.
func (c *Cgroup) FreezeNow() error { return c.wish(true) }

// ThawNow asks the freezer to let the group run and returns at once.
func (c *Cgroup) ThawNow() error { return c.wish(false) }

func (c *Cgroup) wish(freeze bool) error {
	verb := "thaw"
	if freeze {
		verb = "freeze"
	}
	f, err := c.freezer()
	if err == nil {
		err = writeFile(f.control, f.word(freeze))
	}
	if err != nil {
		return fmt.Errorf("%s cgroup %s: %w", verb, c.path, err)
	}
	return nil
}

// Frozen says whether the group is frozen: its processes have stopped, or one that has just come to it is about to.
func (c *Cgroup) Frozen() (bool, error) {
	f, err := c.freezer()
	if err != nil {
		return false, fmt.Errorf("read freezer of cgroup %s: %w", c.path, err)
	}
	s, err := readFile(f.state)
	if err != nil {
		return false, fmt.Errorf("read freezer of cgroup %s: %w", c.path, err)
	}
	if f.frozen(s) || s == "FREEZING" {
		return true, nil
	}
	if !f.v2 {
		return false, nil
	}
	wish, err := readFile(f.control)
	if err != nil {
		return false, fmt.Errorf("read freezer of cgroup %s: %w", c.path, err)
	}
	return wish == f.freeze, nil
}

// FreezerPath returns the directory whose freezer stops the group, as CRIU's option freeze_cgroup wants it; "" when the
// host has no freezer.
func (c *Cgroup) FreezerPath() string {
	if f, err := c.freezer(); err == nil {
		return f.dir
	}
	return ""
}

// freezer is where a group is frozen.
type freezer struct {
	dir            string
	control, state string // the file to write to, the file to read
	freeze, thaw   string // what to write
	v2             bool
}

// freezer finds the group's freezer: v1's where there is one, v2's otherwise.
func (c *Cgroup) freezer() (*freezer, error) {
	if h := c.tree("freezer"); h != nil {
		dir := c.dir(h)
		return &freezer{
			dir: dir, control: dir + "/freezer.state", state: dir + "/freezer.state",
			freeze: "FROZEN", thaw: "THAWED",
		}, nil
	}
	if h := c.tree(""); h != nil {
		dir := c.dir(h)
		return &freezer{
			dir: dir, control: dir + "/cgroup.freeze", state: dir + "/cgroup.events",
			freeze: "1", thaw: "0", v2: true,
		}, nil
	}
	return nil, errors.New("no freezer hierarchy is mounted")
}

// word returns what to write for a freeze or a thaw.
func (f *freezer) word(freeze bool) string {
	if freeze {
		return f.freeze
	}
	return f.thaw
}

// frozen says what the content of the state file means.
func (f *freezer) frozen(s string) bool {
	if f.v2 {
		return strings.Contains("\n"+s+"\n", "\nfrozen 1\n")
	}
	return s == "FROZEN"
}

// reached says whether the content of the state file is what was asked for: v1's FREEZING is neither.
func (f *freezer) reached(s string, freeze bool) bool {
	if f.v2 || freeze {
		return f.frozen(s) == freeze
	}
	return s == "THAWED"
}

// set writes the wish and waits until it is fulfilled: first by reading the state over and over, which is over in a fraction
// of a millisecond for a few processes, then with short sleeps. A v1 freeze can hang when a process forks at the wrong
// moment; writing the wish again helps, as it tells the newcomer too.
func (f *freezer) set(ctx context.Context, freeze bool) error {
	wish := f.word(freeze)
	if err := writeFile(f.control, wish); err != nil {
		return err
	}
	fd, err := open(f.state, unix.O_RDONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var buf [256]byte
	pause := 20 * time.Microsecond
	for i := 1; ; i++ {
		n, err := unix.Pread(fd, buf[:], 0)
		if err != nil && err != unix.EINTR {
			return &fs.PathError{Op: "read", Path: f.state, Err: err}
		}
		s := strings.TrimSpace(string(buf[:max(n, 0)]))
		if err == nil && f.reached(s, freeze) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("state is %s: %w", strings.ReplaceAll(s, "\n", ", "), context.Cause(ctx))
		}
		if i <= 32 {
			runtime.Gosched()
			continue
		}
		if i%64 == 0 {
			if err := writeFile(f.control, wish); err != nil {
				return err
			}
		}
		time.Sleep(pause)
		pause = min(pause*5/4, 2*time.Millisecond)
	}
}
