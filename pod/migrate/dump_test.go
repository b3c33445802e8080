package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zap-migrate/zap/pod/pages"
	"github.com/zap-migrate/zap/runtime/cgroup"
	"github.com/zap-migrate/zap/runtime/vdso"
)

const watchesClock = "ZAP_TEST_CLOCK"

// watchClock looks at the clock from many threads without end, so that one of them is always in the vDSO.
func watchClock() {
	const threads = 16
	runtime.GOMAXPROCS(threads)
	for range threads {
		go func() {
			for at := time.Now(); !at.IsZero(); at = time.Now() {
			}
		}()
	}
	select {}
}

// TestStopInTheVDSO wants a pod whose threads can't be stopped outside of the vDSO to go on, and the user to hear why; and to be stopped all the same for a
// target whose kernel has the same.
func TestStopInTheVDSO(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a cgroup")
	}
	if os.Getenv("ZAP_TEST_SLOWNESS") != "" {
		t.Skip("an emulated processor is interrupted at few places, which are not in the vDSO")
	}
	c, err := cgroup.Create(fmt.Sprintf("/zap-clock-%d", os.Getpid()), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	program := exec.Command(os.Args[0])
	program.Env = append(os.Environ(), watchesClock+"=1")
	program.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Kill(ctx); err != nil {
			t.Error(err)
		}
		_ = program.Wait()
		if err := c.Delete(ctx); err != nil {
			t.Error(err)
		}
	}()
	if err := c.Add(program.Process.Pid); err != nil {
		t.Fatal(err)
	}
	for busy, end := 0, time.Now().Add(20*time.Second); busy < 8 && time.Now().Before(end); time.Sleep(time.Millisecond) { // until its threads are there
		if err := c.Freeze(ctx); err != nil {
			t.Fatal(err)
		}
		busy = len(vdso.Inside([]int{program.Process.Pid}))
		if err := c.Thaw(ctx); err != nil {
			t.Fatal(err)
		}
	}

	s := &Source{cgroup: c}
	if err := s.stop(ctx); err == nil || !strings.Contains(err.Error(), "reads the clock") {
		t.Errorf("stopped, or not for the clock: %v", err)
	}
	if frozen, err := c.Frozen(); frozen || err != nil {
		t.Errorf("the pod does not go on: %v", err)
	}
	s.sameVDSO = true
	if err := s.stop(ctx); err != nil {
		t.Error(err)
	}
	if frozen, err := c.Frozen(); !frozen || err != nil {
		t.Errorf("the pod runs: %v", err)
	}
}

// TestLostBeforeMemory wants the CRIU of a pod whose target is lost just when its memory would be sent to find its page channel closed: it would wait for an
// answer, and the pod would stand still, for as long as a CRIU may do nothing.
func TestLostBeforeMemory(t *testing.T) {
	noLeaks(t)
	sender, err := pages.NewSender()
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	bulk, target := pair(t)
	s := &Source{bulk: bulk, sender: sender}
	bulk.Stop(errors.New("the target is lost"))
	target.Close()
	if err := s.sendMemory(t.Context()); err == nil {
		t.Error("memory was sent to a target that is lost")
	}
	within(t, "CRIU's wait for an answer", func() {
		if n, err := sender.File().Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("CRIU reads %d bytes, %v, and not the end", n, err)
		}
	})
}
