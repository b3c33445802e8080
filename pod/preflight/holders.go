package preflight

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// eachOutside calls f with every process of the host that is not the pod's and its directory of descriptors, until f says
// no. It costs some time on a busy host, and is done only when there is something to name.
func (s *scan) eachOutside(f func(pid, fds int) bool) {
	own := map[int]bool{}
	for _, p := range s.procs {
		own[p.pid] = true
	}
	pids, err := numbers(unix.AT_FDCWD, "/proc")
	if err != nil {
		return
	}
	for _, pid := range pids {
		if own[pid] {
			continue
		}
		fds, err := openAt(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/fd", pid), unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			continue
		}
		more := f(pid, fds)
		unix.Close(fds)
		if !more {
			return
		}
	}
}

// heldOutside names a process outside the pod that has the file open, or returns "".
func (s *scan) heldOutside(key fileKey) (who string) {
	s.eachOutside(func(pid, dir int) bool {
		fds, _ := numbers(dir, ".")
		for _, fd := range fds {
			if f, err := statAt(dir, strconv.Itoa(fd)); err == nil && (fileKey{f.dev, f.ino}) == key {
				who = nameOf(pid)
				return false
			}
		}
		return true
	})
	return who
}

// socketLink finds what a finding says about a socket outside.
var socketLink = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`socket:\[\d+\]`)
})

// nameHolders adds to the findings about other ends who has them.
func (s *scan) nameHolders() {
	wanted := map[string]string{}
	for i := range s.found {
		if link := s.found[i].otherEnd(); link != "" {
			wanted[link] = ""
		}
	}
	if len(wanted) == 0 {
		return
	}
	missing := len(wanted)
	s.eachOutside(func(pid, dir int) bool {
		fds, _ := numbers(dir, ".")
		for _, fd := range fds {
			link, err := readlinkAt(dir, strconv.Itoa(fd))
			if err != nil {
				continue
			}
			if who, ok := wanted[link]; ok && who == "" {
				wanted[link] = nameOf(pid)
				missing--
			}
		}
		return missing > 0
	})
	for i := range s.found {
		f := &s.found[i]
		if who := wanted[f.otherEnd()]; who != "" {
			f.detail += ": " + who + " has it"
		}
	}
}

// otherEnd returns how /proc names the other end that a finding is about, or "".
func (f *finding) otherEnd() string {
	switch f.code {
	case BlockUnix:
		return socketLink().FindString(f.detail)
	case BlockPipe:
		if strings.HasPrefix(f.what, "pipe:[") {
			return f.what
		}
	}
	return ""
}
