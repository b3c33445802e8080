package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestKilled kills a process that has a lab, from outside and without a warning: what it started as mortal ends with it, and not with the
// thread that asked for it. The next lab removes the network namespaces, mounts and files.
func TestKilled(t *testing.T) {
	const child = "ZAP_E2E_KILLED"
	if os.Getenv(child) != "" {
		beKilled(t)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: hosts are network namespaces")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestKilled$", "-test.v")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := StartChild(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); WaitChild(cmd) })
	var pid int
	var id, dir string
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		fmt.Sscanf(lines.Text(), "lab %s %s %d", &id, &dir, &pid)
	}
	mortal, err := readProcess(pid)
	if err != nil || mortal.Comm != "sleep" {
		t.Fatalf("the mortal process %d: %v, %v", pid, mortal, err)
	}
	left := func() []string {
		names, _ := filepath.Glob(filepath.Join(netnsDir, "ze-"+id+"-*"))
		mounts, _ := os.ReadFile("/proc/self/mountinfo")
		if strings.Contains(string(mounts), dir) {
			names = append(names, "mounts below "+dir)
		}
		if _, err := os.Stat(dir); err == nil {
			names = append(names, dir)
		}
		return names
	}
	if err := sweep(); err != nil || len(left()) != 3 {
		t.Fatalf("of a lab that is in use there is only %v, %v", left(), err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	WaitFor(t, 10*time.Second, "the mortal process to end", func() bool {
		now, err := readProcess(pid)
		return err != nil || now.Start != mortal.Start || now.State == 'Z'
	})
	_ = WaitChild(cmd) // before its last thread has ended the lab is its
	if err := sweep(); err != nil || len(left()) != 0 {
		t.Errorf("left of the lab: %v, %v", left(), err)
	}
}

// beKilled makes a lab with a mount and a process in it, tells of them and waits.
func beKilled(t *testing.T) {
	l := newLab(t)
	mount := l.Path("mount")
	if err := os.Mkdir(mount, 0o700); err != nil {
		t.Fatal(err)
	}
	l.run("mount", "-t", "tmpfs", "tmpfs", mount)
	cmd := exec.Command("nsenter", "--net="+l.sw.Path(), "--", "sleep", "3600")
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with this function
		started <- StartMortal(cmd)
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	WaitFor(t, 10*time.Second, "nsenter to become sleep", func() bool {
		p, err := readProcess(cmd.Process.Pid)
		return err == nil && p.Comm == "sleep"
	})
	time.Sleep(100 * time.Millisecond) // for the thread's end to show
	fmt.Printf("lab %s %s %d\n", l.ID, l.Dir, cmd.Process.Pid)
	time.Sleep(time.Minute)
}
