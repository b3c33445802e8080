package pod

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// niceOfThreads counts this process's threads by their nice value.
func niceOfThreads(t *testing.T) map[int]int {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	all := map[int]int{}
	for _, e := range threads {
		tid, _ := strconv.Atoi(e.Name())
		if raw, err := unix.Getpriority(unix.PRIO_PROCESS, tid); err == nil {
			all[20-raw]++
		}
	}
	return all
}

// TestHurry wants every thread to be hurried, and children, until the last of those who asked for it is done.
func TestHurry(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may hurry")
	}
	if all := niceOfThreads(t); len(all) != 1 || all[0] == 0 {
		t.Skip("the tests run with nice values of their own:", all)
	}
	release := make(chan struct{})
	defer close(release)
	for range 8 {
		held := make(chan struct{})
		go func() {
			runtime.LockOSThread() // a thread that ends with it
			close(held)
			<-release
		}()
		<-held
	}
	end, second := Hurry(), Hurry()
	end()
	end()
	if all := niceOfThreads(t); len(all) != 1 || all[hurriedNice] < 8 {
		t.Errorf("threads by nice value: %v", all)
	}
	out, err := exec.Command("nice").Output()
	if err != nil || strings.TrimSpace(string(out)) != strconv.Itoa(hurriedNice) {
		t.Errorf("a child's nice value is %s, %v", out, err)
	}
	second()
	if all := niceOfThreads(t); len(all) != 1 || all[0] < 8 {
		t.Errorf("threads by nice value afterwards: %v", all)
	}
}
