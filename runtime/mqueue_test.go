package runtime

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// newIPC starts a process in a new IPC namespace and returns its pid.
func newIPC(t *testing.T) int {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes IPC namespaces")
	}
	cmd := exec.Command("sleep", "60")
	// No Pdeathsig: that is sent when the thread ends that started it, and saving queues ends threads.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWIPC}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func TestQueuesTravel(t *testing.T) {
	source, target := newIPC(t), newIPC(t)
	want := []Queue{
		{Name: "orders", Mode: 0o640, UID: 33, GID: 34, MaxCount: 8, MaxSize: 512, Messages: []Message{
			{Priority: 9, Data: []byte("first")}, {Priority: 3, Data: []byte("second")}, {Priority: 3, Data: []byte("third")}, {Data: []byte{0}},
		}},
	}
	if err := RestoreQueues(source, want); err != nil {
		t.Fatal(err)
	}
	for range 2 { // reading leaves them as they were
		got, err := SaveQueues(source)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("queues as read (-want +got):\n%s", diff)
		}
	}
	if err := RestoreQueues(target, want); err != nil {
		t.Fatal(err)
	}
	got, err := SaveQueues(target)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("queues on the target (-want +got):\n%s", diff)
	}
}

func TestQueuesOfAHostilePeer(t *testing.T) {
	pid := newIPC(t)
	for _, q := range []Queue{
		{Name: "a", MaxCount: 0, MaxSize: 1},
		{Name: "a", MaxCount: 1, MaxSize: 1 << 40},
		{Name: "a", MaxCount: 1, MaxSize: 8, Messages: make([]Message, 2)},
		{Name: "a/../../b", MaxCount: 1, MaxSize: 8},
		{Name: "a", MaxCount: 1, MaxSize: 1, Messages: []Message{{Data: []byte("too long")}}},
	} {
		if err := RestoreQueues(pid, []Queue{q}); err == nil {
			t.Errorf("queue %+v was made", q)
		}
	}
}
