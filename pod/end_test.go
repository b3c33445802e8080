package pod

import (
	"context"
	"errors"
	"os/exec"
	"testing"
	"time"
)

// TestProcessWait waits for processes that run on, that end, and that are not there.
func TestProcessWait(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	start, err := StartTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	p := Process{Pid: cmd.Process.Pid, StartTime: start}
	gone := errors.New("no more patience")
	brief, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, gone)
	defer cancel()
	if err := p.Wait(brief); !errors.Is(err, gone) {
		t.Errorf("while it runs: %v", err)
	}
	if err := (Process{Pid: p.Pid, StartTime: start + 1}).Wait(t.Context()); err != nil {
		t.Errorf("one that had its id before: %v", err)
	}
	waited := make(chan error)
	go func() { waited <- p.Wait(t.Context()) }()
	in.Close()
	select {
	case err := <-waited: // though nobody has reaped it
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it has ended, and is waited for still")
	}
	_ = cmd.Wait()
	if err := p.Wait(t.Context()); err != nil {
		t.Errorf("after its end: %v", err)
	}
}
