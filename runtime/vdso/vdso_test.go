package vdso

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/runtime/cgroup"
)

const spin = "ZAP_VDSO_SPIN"

func TestMain(m *testing.M) {
	if os.Getenv(spin) != "" {
		for at := time.Now(); !at.IsZero(); at = time.Now() {
		}
	}
	os.Exit(m.Run())
}

// TestFreeze stops a program that looks at the clock without end: as it comes it is in the vDSO more often than not, and with Freeze never.
func TestFreeze(t *testing.T) {
	c := spinner(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	freeze := map[string]func() ([]Thread, error){
		"as it comes": func() ([]Thread, error) { return nil, c.Freeze(ctx) },
		"outside":     func() ([]Thread, error) { return Freeze(ctx, c, 20*time.Second) },
	}
	for how, stop := range freeze {
		var met int
		const times = 20
		for range times {
			if left, err := stop(); err != nil || len(left) > 0 {
				t.Fatalf("%s: %v, %v", how, left, err)
			}
			pids, err := c.Procs()
			if err != nil || len(pids) != 1 {
				t.Fatalf("processes %v, %v", pids, err)
			}
			if len(Inside(pids)) > 0 {
				met++
			}
			if err := c.Thaw(ctx); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		t.Logf("%s: %d of %d times in the vDSO", how, met, times)
		if (met > 0) == (how == "outside") {
			t.Errorf("%s: %d of %d times in the vDSO", how, met, times)
		}
	}
}

// TestFreezeStays has the frozen program seized and let go by the freezer, as CRIU does: its threads must be where they were.
func TestFreezeStays(t *testing.T) {
	c := spinner(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	runtime.LockOSThread() // the tracer
	for range 20 {
		if left, err := Freeze(ctx, c, 20*time.Second); err != nil || len(left) > 0 {
			t.Fatalf("%v, %v", left, err)
		}
		pids, err := c.Procs()
		if err != nil {
			t.Fatal(err)
		}
		code := mapped(pids[0])
		tids, err := readNames(fmt.Sprintf("/proc/%d/task", pids[0]))
		if err != nil {
			t.Fatal(err)
		}
		before := map[string]string{}
		for _, name := range tids {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/syscall", pids[0], name))
			before[name] = strings.TrimSpace(string(text))
			tid, _ := strconv.Atoi(name)
			if _, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, 0, 0, 0); errno != 0 {
				t.Fatalf("seize %d: %v", tid, errno)
			}
			if err := unix.PtraceInterrupt(tid); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.ThawNow(); err != nil {
			t.Fatal(err)
		}
		for _, name := range tids {
			tid, _ := strconv.Atoi(name)
			var status unix.WaitStatus
			if _, err := unix.Wait4(tid, &status, unix.WALL, nil); err != nil {
				t.Fatal(err)
			}
			var regs unix.PtraceRegs
			if err := unix.PtraceGetRegs(tid, &regs); err != nil {
				t.Fatal(err)
			}
			for _, s := range code {
				if s.from <= regs.PC() && regs.PC() < s.to {
					t.Errorf("thread %d was at %s, and is at %#x, status %#x", tid, before[name], regs.PC(), status)
				}
			}
			if err := unix.PtraceDetach(tid); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// TestFreezeGivesUp: a program that is always in there is left frozen, and the caller hears of it.
func TestFreezeGivesUp(t *testing.T) {
	c := spinner(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range 1000 {
		left, err := Freeze(ctx, c, 0)
		if err != nil {
			t.Fatal(err)
		}
		if frozen, err := c.Frozen(); !frozen || err != nil {
			t.Fatalf("frozen is %v, %v", frozen, err)
		}
		if len(left) > 0 {
			return
		}
		if err := c.Thaw(ctx); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	t.Error("the program was never found in the vDSO")
}

// spinner starts a program that looks at the clock, in a cgroup of its own.
func spinner(t *testing.T) *cgroup.Cgroup {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a cgroup")
	}
	c, err := cgroup.Create(fmt.Sprintf("/zap-vdso-%d", os.Getpid()), nil)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), spin+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		_ = c.ThawNow()
		if cmd.Process != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if err := c.Delete(ctx); err != nil {
			t.Error(err)
		}
	})
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := c.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); threads(cmd.Process.Pid) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the program does not run")
		}
	}
	return c
}

func threads(pid int) int {
	names, _ := readNames(fmt.Sprintf("/proc/%d/task", pid))
	return len(names)
}

// TestFrame finds the frame of a signal that came in the vDSO, by its instruction pointer, and no other number that happens to be one.
func TestFrame(t *testing.T) {
	code := []span{{0x67000, 0x69000}}
	for name, c := range map[string]struct {
		stack []uint64
		want  bool
	}{
		"a frame":              {[]uint64{1, 2, 0x67960, 0x10246, 0x2b000000000033, 5}, true},
		"at the end":           {[]uint64{0x68fff, 0x202, 0x33}, true},
		"cut off":              {[]uint64{1, 0x67960, 0x246}, false},
		"elsewhere":            {[]uint64{1, 2, 0x69000, 0x246, 0x33, 5}, false},
		"a return address":     {[]uint64{1, 0x67960, 0x7ffe4c54e668, 0x33, 3}, false},
		"in another segment":   {[]uint64{1, 0x67960, 0x246, 0x10, 3}, false},
		"nothing on the stack": {nil, false},
	} {
		var b []byte
		for _, word := range c.stack {
			b = binary.NativeEndian.AppendUint64(b, word)
		}
		if runtime.GOARCH == "amd64" && interrupted(b, code) != c.want {
			t.Errorf("%s: %v", name, !c.want)
		}
	}
}

func TestParse(t *testing.T) {
	type read struct {
		place
		ok bool
	}
	for text, want := range map[string]read{
		"running\n":                              {},
		"":                                       {},
		"-1 0x7ffd0a35e5b8 0x7ffd0a3a4b2f\n":     {place{0x7ffd0a35e5b8, 0x7ffd0a3a4b2f}, true},
		"228 0x1 0x7f 0x0 0x0 0x0 0x0 0x10 0xfe": {place{0x10, 0xfe}, true},
		"x y z":                                  {},
	} {
		if p, ok := parsePlace(text); ok != want.ok || ok && p != want.place {
			t.Errorf("%q: %#x, %v", text, p, ok)
		}
	}
	type mapping struct {
		span
		named, ok bool
	}
	for line, want := range map[string]mapping{
		"7ffd0a3a4000-7ffd0a3a6000 r-xp 00000000 00:00 0                          [vdso]\n":     {span{0x7ffd0a3a4000, 0x7ffd0a3a6000}, true, true},
		"7f0000001000-7f0000003000 r-xp 00000000 00:00 0 \n":                                    {span{0x7f0000001000, 0x7f0000003000}, false, true},
		"7f0000001000-7f0000003000 rw-p 00000000 00:00 0 \n":                                    {},
		"7f0000001000-7f0000003000 r-xp 00000000 08:01 77                         /usr/lib/x\n": {},
		"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n": {},
		"nonsense\n": {},
	} {
		s, named, ok := parseMapping(line)
		if ok != want.ok || ok && (s != want.span || named != want.named) {
			t.Errorf("%q: %v, %v, %v", line, s, named, ok)
		}
	}
}

// TestDigest: this process's vDSO is known, and the same each time.
func TestDigest(t *testing.T) {
	one, err := Digest()
	if err != nil || len(one) != 64 {
		t.Fatalf("%q, %v", one, err)
	}
	if two, err := Digest(); two != one || err != nil {
		t.Errorf("%q is not %q, %v", two, one, err)
	}
}
