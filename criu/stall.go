package criu

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// stallLimit is for how long a CRIU that owes the next word may do nothing at all. CRIU waits without bounds for what it
// traces; while it waits, the tree stands still.
const stallLimit = 30 * time.Second

// stallLooks is how often one looks at CRIU in that time: a single look says nothing when it was this process that stood still.
const stallLooks = 10

// stallWatch notices that CRIU and what it is restoring use no processor time any more.
type stallWatch struct {
	roots []int // CRIU, and the first process that it restores
	limit time.Duration
	tick  *time.Ticker // nil when there is nothing to watch
	last  []byte
	since int // looks at which nothing had changed
}

// watch begins a watch over what comes until CRIU's next word. A CRIU that has its final yes has a limit of its own.
func (s *Session) watch() *stallWatch {
	w := &stallWatch{roots: []int{s.proc.Pid}, limit: s.patience}
	if s.root != nil {
		w.roots = append(w.roots, s.root.Pid)
	}
	if s.used && !s.final && !s.lazy && w.limit > 0 {
		w.tick = time.NewTicker(w.limit / stallLooks)
	}
	return w
}

func (w *stallWatch) stop() {
	if w.tick != nil {
		w.tick.Stop()
	}
}

// due is when to look; never when there is nothing to watch.
func (w *stallWatch) due() <-chan time.Time {
	if w.tick == nil {
		return nil
	}
	return w.tick.C
}

// look returns an error when nothing has happened for the limit.
func (w *stallWatch) look() error {
	now, asleep := activity(w.roots)
	if !asleep || !bytes.Equal(now, w.last) {
		w.last, w.since = now, 0
		return nil
	}
	if w.since++; w.since < stallLooks {
		return nil
	}
	return fmt.Errorf("CRIU did nothing for %v: it waits in %s", w.limit, waitsIn(w.roots[0]))
}

// activity is what the kernel counts of the processes' time on a processor, and whether all of them sleep: one that waits for a disk,
// or that somebody has stopped, does nothing either, but will.
func activity(roots []int) (counted []byte, asleep bool) {
	asleep = true
	for _, root := range roots {
		for _, pid := range descendants(root) {
			dir := "/proc/" + strconv.Itoa(pid)
			stat, _ := os.ReadFile(dir + "/stat")       // of all threads, in hundredths of a second
			times, _ := os.ReadFile(dir + "/schedstat") // of the first thread, in nanoseconds
			counted = append(append(counted, stat...), times...)
			if i := bytes.LastIndexByte(stat, ')'); i >= 0 && i+2 < len(stat) && strings.IndexByte("RDT", stat[i+2]) >= 0 {
				asleep = false
			}
		}
	}
	return counted, asleep
}

// waitsIn names the function of the kernel in which a process sleeps.
func waitsIn(pid int) string {
	at, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
	if err != nil || len(at) == 0 || string(at) == "0" {
		return "a place that the kernel does not tell"
	}
	return string(at)
}
