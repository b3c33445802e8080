package pod

import (
	"os/exec"
	"testing"
	"time"
)

// A supervisor that has ended but was not reaped, because whoever adopted it is
// slow, must not be waited for.
func TestZombieIsNotAlive(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	start, err := StartTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	p := Process{Pid: cmd.Process.Pid, StartTime: start}
	if !p.Alive() {
		t.Error("a process that runs is not alive")
	}
	if (Process{Pid: p.Pid, StartTime: start + 1}).Alive() {
		t.Error("a process of another time with its pid is alive")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if state, err := ProcessState(p.Pid); err == nil && state == 'Z' {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it did not become a zombie")
		}
	}
	if p.Alive() {
		t.Error("a zombie is alive")
	}
	_ = cmd.Wait()
}
