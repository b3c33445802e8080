package pod

import (
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// hurriedNice is the nice value of a process that hurries: beside one of the usual value it gets nine tenths of a processor (sched(7)).
const hurriedNice = -10

var hurried struct {
	mu    sync.Mutex
	times int
}

// Hurry has this process, and those that it starts, run before others until end is called: a pod stands still meanwhile, or waits to, and
// a host that pods leave is often a busy one. It nests. A process whose nice value somebody has chosen keeps it, as does one that
// lacks CAP_SYS_NICE.
func Hurry() (end func()) {
	hurried.mu.Lock()
	defer hurried.mu.Unlock()
	if hurried.times++; hurried.times == 1 {
		renice(0, hurriedNice)
	}
	return sync.OnceFunc(func() {
		hurried.mu.Lock()
		defer hurried.mu.Unlock()
		if hurried.times--; hurried.times == 0 {
			renice(hurriedNice, 0)
		}
	})
}

// renice changes the nice value of all threads of this process that have the one that is named. A thread that starts meanwhile may have either, so
// it looks again until there is none left.
func renice(from, to int) {
	for range 10 {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return
		}
		changed := false
		for _, t := range threads {
			tid, err := strconv.Atoi(t.Name())
			if err != nil {
				continue
			}
			raw, err := unix.Getpriority(unix.PRIO_PROCESS, tid) // 20 less the nice value (getpriority(2))
			if err != nil || 20-raw != from {
				continue
			}
			if unix.Setpriority(unix.PRIO_PROCESS, tid, to) != nil {
				return
			}
			changed = true
		}
		if !changed {
			return
		}
	}
}
