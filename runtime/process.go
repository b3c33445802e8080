package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// startTime returns when a process started, in clock ticks since the boot, and its state letter (proc(5)).
func startTime(pid int) (start uint64, state byte, err error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	// The name in parentheses may hold anything; the fields begin behind the last one.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return start, fields[0][0], err
}

// alive says whether the process still runs: it is no zombie and no other one that has its pid now.
func alive(pid int, start uint64) bool {
	if pid <= 0 {
		return false
	}
	now, state, err := startTime(pid)
	return err == nil && now == start && state != 'Z' && state != 'X'
}

// Process is a process that this one started in a container and waits for.
type Process struct {
	// Pid is the process's id in the pid namespace of the runtime.
	Pid int
}

// Wait waits for the process's end and returns its exit status as a shell counts: 128 and the signal for one that was killed. When ctx
// ends first the process goes on.
func (p *Process) Wait(ctx context.Context) (int, error) {
	status, err := p.end(ctx)
	switch {
	case err != nil:
		return -1, err
	case status.Signaled():
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

// end waits for the process's end and says how it came.
func (p *Process) end(ctx context.Context) (unix.WaitStatus, error) {
	type result struct {
		status unix.WaitStatus
		err    error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		for {
			if _, r.err = unix.Wait4(p.Pid, &r.status, 0, nil); !errors.Is(r.err, unix.EINTR) {
				break
			}
		}
		done <- r
	}()
	select {
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for process %d: %w", p.Pid, ctx.Err())
	case r := <-done:
		if r.err != nil {
			return 0, fmt.Errorf("wait for process %d: %w", p.Pid, r.err)
		}
		return r.status, nil
	}
}
