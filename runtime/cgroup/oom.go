package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OOMKills returns how many processes of the group the kernel has killed for want of memory; 0 where nobody counts them.
func (c *Cgroup) OOMKills() (uint64, error) {
	f := &files{}
	name := "memory.oom_control"
	if h := c.tree("memory"); h != nil {
		f.dir = c.dir(h) + "/"
	} else if dir := c.UnifiedDir(); dir != "" {
		f.dir, name = dir+"/", "memory.events"
	} else {
		return 0, nil
	}
	n := f.keyed(name)["oom_kill"]
	if f.err != nil && !gone(f.err) {
		return 0, fmt.Errorf("read memory events of cgroup %s: %w", c.path, f.err)
	}
	return n, nil
}

// WatchOOM returns a channel with a value for each time that the group runs out of memory from now on. It is closed when the group is
// removed, on v2 when its last process has ended, and at the end of ctx.
func (c *Cgroup) WatchOOM(ctx context.Context) (<-chan struct{}, error) {
	start := c.watchUnified
	if c.tree("memory") != nil {
		start = c.watchLegacy
	} else if c.tree("") == nil {
		return nil, fmt.Errorf("watch memory of cgroup %s: %w", c.path, notMounted("memory"))
	}
	file, again, err := start()
	if err != nil {
		return nil, fmt.Errorf("watch memory of cgroup %s: %w", c.path, err)
	}
	events := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { file.Close() })
	go func() {
		defer close(events)
		defer file.Close()
		defer stop()
		buf := make([]byte, 4096)
		for {
			if _, err := file.Read(buf); err != nil {
				return
			}
			oom, end := again()
			if oom {
				select {
				case events <- struct{}{}:
				case <-ctx.Done():
					return
				}
			}
			if end {
				return
			}
		}
	}()
	return events, nil
}

// watchLegacy has the kernel count into an eventfd (Documentation/admin-guide/cgroup-v1/memory.rst, 10. OOM Control). It does so once more
// when the group is removed.
func (c *Cgroup) watchLegacy() (*os.File, func() (oom, end bool), error) {
	dir := c.dir(c.tree("memory"))
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, nil, err
	}
	file := os.NewFile(uintptr(fd), "eventfd")
	control, err := open(dir+"/memory.oom_control", unix.O_RDONLY)
	if err == nil {
		err = writeFile(dir+"/cgroup.event_control", fmt.Sprintf("%d %d", fd, control))
		unix.Close(control)
	}
	if err != nil {
		file.Close()
		return nil, nil, err
	}
	return file, func() (bool, bool) {
		there := exists(dir + "/cgroup.event_control")
		return there, !there
	}, nil
}

// watchUnified has the kernel tell about changes of memory.events and, as it tells nothing about removed groups, of cgroup.events, which
// says whether anybody is in the group.
func (c *Cgroup) watchUnified() (*os.File, func() (oom, end bool), error) {
	dir := c.UnifiedDir()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, err
	}
	file := os.NewFile(uintptr(fd), "inotify")
	for _, name := range []string{"/memory.events", "/cgroup.events"} {
		_, err := unix.InotifyAddWatch(fd, dir+name, unix.IN_MODIFY)
		if err != nil && !(errors.Is(err, unix.ENOENT) && name == "/memory.events") { // without the controller only the end can be told
			file.Close()
			return nil, nil, fmt.Errorf("watch %s: %w", dir+name, err)
		}
	}
	known, _ := c.OOMKills()
	return file, func() (bool, bool) {
		f := &files{dir: dir + "/"}
		events := f.keyed("cgroup.events")
		now, _ := c.OOMKills()
		more := now > known
		known = max(now, known)
		return more, events["populated"] == 0
	}, nil
}
