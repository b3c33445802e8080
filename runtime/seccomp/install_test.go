package seccomp

import (
	"runtime"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// install puts a filter on a thread of its own, which ends with that, calls f there and returns how long the kernel took to take the filter.
func install(filter *Filter, f func()) (took time.Duration, errno unix.Errno) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with its goroutine
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			errno = err.(unix.Errno)
			return
		}
		program := unix.SockFprog{Len: uint16(len(filter.Program)), Filter: &filter.Program[0]}
		start := time.Now()
		_, _, errno = unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(filter.Flags), uintptr(unsafe.Pointer(&program)))
		took = time.Since(start)
		if errno == 0 {
			f()
		}
	}()
	<-done
	return took, errno
}

// TestInstall has the kernel take filters, and refuse a call.
func TestInstall(t *testing.T) {
	s := enginesProfile(runtime.GOARCH)
	filter, err := Compile(s, runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	if _, errno := install(filter, func() {
		if _, _, errno := unix.RawSyscall(unix.SYS_SWAPOFF, 0, 0, 0); errno != unix.EPERM {
			t.Errorf("swapoff: %v", errno)
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0); errno != 0 {
			t.Errorf("personality: %v", errno)
		}
		if _, _, errno := unix.RawSyscall(unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT); errno != unix.EINVAL {
			t.Errorf("audit socket: %v", errno)
		}
		if _, _, errno := unix.RawSyscall(tableSize, 0, 0, 0); errno != unix.ENOSYS {
			t.Errorf("a call of the future: %v", errno)
		}
	}); errno != 0 {
		t.Fatal(errno)
	}
}

// BenchmarkInstall measures what the kernel takes to check a filter like the engines'.
func BenchmarkInstall(b *testing.B) {
	filter, err := Compile(enginesProfile(runtime.GOARCH), runtime.GOARCH)
	if err != nil {
		b.Fatal(err)
	}
	var all time.Duration
	for b.Loop() {
		took, errno := install(filter, func() {})
		if errno != 0 {
			b.Fatal(errno)
		}
		all += took
	}
	b.ReportMetric(float64(all.Nanoseconds())/float64(b.N), "ns/install")
}
