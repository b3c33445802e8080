package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const tick = 20 * time.Millisecond

func monotonic() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return time.Duration(ts.Nano())
}

// grows waits until a counter has moved on.
func grows(what string, counter *atomic.Int64) error {
	first := counter.Load()
	for deadline := time.Now().Add(patience); counter.Load() == first; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("no %s any more after %d", what, first)
		}
	}
	return nil
}

// timerFD has one timer that ticks and one that will ring in a day.
func timerFD() (func() error, error) {
	const day = 24 * time.Hour
	ticks, err := newTimerFD(tick, tick)
	if err != nil {
		return nil, err
	}
	alarm, err := newTimerFD(day, 0)
	if err != nil {
		return nil, err
	}
	rings, last := monotonic()+day, monotonic()
	return func() error {
		fds := []unix.PollFd{{Fd: int32(ticks), Events: unix.POLLIN}}
		if n, err := poll(fds); err != nil || n != 1 {
			return fmt.Errorf("no tick: %v", err)
		}
		var count [8]byte
		if _, err := unix.Read(ticks, count[:]); err != nil || binary.NativeEndian.Uint64(count[:]) == 0 {
			return fmt.Errorf("read ticks %x: %v", count, err)
		}
		var spec unix.ItimerSpec
		if err := unix.TimerfdGettime(ticks, &spec); err != nil {
			return err
		}
		if err := want("interval", time.Duration(spec.Interval.Nano()), tick); err != nil {
			return err
		}
		if err := unix.TimerfdGettime(alarm, &spec); err != nil {
			return err
		}
		now := monotonic()
		if now < last {
			return fmt.Errorf("the monotonic clock went back from %v to %v", last, now)
		}
		last = now
		// A pause may count or not, but the alarm must not ring hours off, as it would by the other host's clock.
		if off := rings - now - time.Duration(spec.Value.Nano()); off.Abs() > time.Minute {
			return fmt.Errorf("the alarm is %v off", off)
		}
		return nil
	}, nil
}

func newTimerFD(first, every time.Duration) (int, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("timerfd_create", err)
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(first)), Interval: unix.NsecToTimespec(int64(every))}
	return fd, os.NewSyscallError("timerfd_settime", unix.TimerfdSettime(fd, 0, &spec, nil))
}

// poll is poll(2) with patience, begun again when a signal comes.
func poll(fds []unix.PollFd) (int, error) {
	for deadline := time.Now().Add(patience); ; {
		n, err := unix.Poll(fds, int(time.Until(deadline).Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// countSignals counts the signals that come.
func countSignals(sig os.Signal) *atomic.Int64 {
	var n atomic.Int64
	came := make(chan os.Signal, 16)
	signal.Notify(came, sig)
	go func() {
		for range came {
			n.Add(1)
		}
	}()
	return &n
}

func intervalTimer() (func() error, error) {
	count := countSignals(unix.SIGALRM)
	value := unix.Timeval{Usec: int64(tick / time.Microsecond)}
	if _, err := unix.Setitimer(unix.ITIMER_REAL, unix.Itimerval{Interval: value, Value: value}); err != nil {
		return nil, os.NewSyscallError("setitimer", err)
	}
	return func() error {
		if err := grows("alarm", count); err != nil {
			return err
		}
		now, err := unix.Getitimer(unix.ITIMER_REAL)
		return errors.Join(err, want("interval", now.Interval, value))
	}, nil
}

func posixTimer() (func() error, error) {
	count := countSignals(unix.SIGUSR2)
	// struct sigevent: the value, the signal, how to notify (0: SIGEV_SIGNAL), and room.
	event := struct {
		value     uint64
		signo     int32
		notify    int32
		remainder [48]byte
	}{signo: int32(unix.SIGUSR2)}
	var id int32
	if _, _, errno := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&id))); errno != 0 {
		return nil, os.NewSyscallError("timer_create", errno)
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(tick)), Interval: unix.NsecToTimespec(int64(tick))}
	if _, _, errno := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(id), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); errno != 0 {
		return nil, os.NewSyscallError("timer_settime", errno)
	}
	return func() error {
		if err := grows("signal", count); err != nil {
			return err
		}
		var now unix.ItimerSpec
		if _, _, errno := unix.Syscall(unix.SYS_TIMER_GETTIME, uintptr(id), uintptr(unsafe.Pointer(&now)), 0); errno != 0 {
			return os.NewSyscallError("timer_gettime", errno)
		}
		return want("interval", time.Duration(now.Interval.Nano()), tick)
	}, nil
}
