package criu

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	goruntime "runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestParseLimit(t *testing.T) {
	text, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		t.Fatal(err)
	}
	for resource := range 16 {
		var want unix.Rlimit
		if err := unix.Getrlimit(resource, &want); err != nil {
			t.Fatal(err)
		}
		soft, hard, err := parseLimit(text, resource)
		if err != nil || hard != want.Max || soft != want.Cur {
			t.Errorf("limit %d is %d, %d, %v; want %d, %d", resource, soft, hard, err, want.Cur, want.Max)
		}
	}
	for _, bad := range []string{"", "Limit\nMax cpu time\n", "Limit                     Soft\nMax cpu time              x y seconds\n"} {
		if soft, hard, err := parseLimit([]byte(bad), 0); err == nil {
			t.Errorf("%q gives %d, %d", bad, soft, hard)
		}
	}
	if _, _, err := parseLimit(text, 99); err == nil {
		t.Error("there is a limit 99")
	}
}

// TestLimitsOfAnotherUser asks, under the filter, for what the kernel refuses.
func TestLimitsOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: starts a process of another user")
	}
	if auditArch[goruntime.GOARCH] == 0 {
		t.Skip("needs an architecture that the filter is written for")
	}
	c := exec.Command("sleep", "60")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", c.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	got, errs := make([]unix.Rlimit, 16), make([]error, 16)
	done := make(chan error, 1)
	go onOwnThread(func() {
		l, err := installLimits(goruntime.GOARCH)
		if err != nil {
			done <- err
			return
		}
		l.log = slog.New(slog.DiscardHandler)
		go l.serve()
		for i := range got {
			// Not RawSyscall6, which keeps the processor: on a machine with one, serve would never run.
			_, _, errno := unix.Syscall6(unix.SYS_PRLIMIT64, uintptr(c.Process.Pid), uintptr(i), 0, uintptr(unsafe.Pointer(&got[i])), 0, 0)
			if errno != 0 {
				errs[i] = errno
			}
		}
		done <- nil
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for i := range got {
		soft, hard, err := parseLimit(text, i)
		if err != nil || errs[i] != nil || got[i].Cur != soft || got[i].Max != hard {
			t.Errorf("limit %d is %+v, %v; want %d, %d (%v)", i, got[i], errs[i], soft, hard, err)
		}
	}
}

// TestSeccompedTree: under a filter of its own CRIU could not dump a tree that has one.
func TestSeccompedTree(t *testing.T) {
	r := newRig(t)
	if seccomped(r.tree.root.Pid) {
		t.Skip("needs to run without a seccomp filter")
	}
	r.tree.kill()
	done := make(chan error, 1)
	go onOwnThread(func() {
		allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
		program := unix.SockFprog{Len: 1, Filter: &allow}
		_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
		if errno != 0 {
			done <- errno
			return
		}
		err := enterRoot(r.tree.rootfs())
		if err == nil {
			r.tree.root, err = startTrialProgram()
		}
		done <- err
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := r.tree.waitForChild(); err != nil {
		t.Fatal(err)
	}
	pid := r.tree.root.Pid
	if !seccomped(pid) {
		t.Fatal("the tree has no filter, or it was not found")
	}
	s := r.start(Env{Dumps: true, Tree: pid})
	if _, err := s.Dump(t.Context(), DumpOptions(pid, r.images, r.images), Callbacks{}); err != nil {
		t.Error(err)
	}
	if hint := hint("suspending seccomp failed: Operation not permitted"); !strings.Contains(hint, "seccomp") {
		t.Errorf("hint %q", hint)
	}
}
