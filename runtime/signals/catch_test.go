package signals

import (
	"os"
	"os/exec"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCatch runs this test again in a process of its own, because nothing is caught twice: there it sends itself every signal.
func TestCatch(t *testing.T) {
	const again = "ZAP_TEST_CATCH"
	if os.Getenv(again) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run", "^TestCatch$", "-test.v")
		cmd.Env = append(os.Environ(), again+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := Catch(unix.SIGCHLD); err != nil {
		t.Fatal(err)
	}
	var want []unix.Signal
	for sig := unix.Signal(1); sig <= lastSignal; sig++ {
		if sig != unix.SIGCHLD && slices.Contains(kept, sig) {
			continue
		}
		for range 1 + min(1, int(sig)/34) { // of a real-time signal each one counts
			want = append(want, sig)
			if err := unix.Kill(os.Getpid(), sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The end of a child is seen after the signals, and Go's own signals still work: the runtime uses them all the time.
	child := exec.Command("/bin/sleep", "0.2")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(child.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got []unix.Signal
	if err := Wait(pidfd, func(sig unix.Signal) { got = append(got, sig) }); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
	if n := len(got); n == 0 || got[n-1] != unix.SIGCHLD {
		t.Errorf("the last signal is not that of the child's end: %v", got)
	} else {
		got = got[:n-1]
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("caught %v, want %v", got, want)
	}
}
