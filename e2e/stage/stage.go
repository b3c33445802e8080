package stage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/zap-migrate/zap/e2e"
)

// T is the testing.TB of a program. Of the interface it has what package e2e uses.
type T struct {
	testing.TB // nil: the methods that are not below
	name       string
	log        io.Writer

	mu       sync.Mutex
	cleanups []func()
	failures []error
}

// Run calls f with a T and then, also when f fails or the user interrupts it, what f registered with Cleanup. It answers with
// what went wrong. It makes this process the reaper of everything below it, and may be called once.
func Run(name string, log io.Writer, f func(t *T)) error {
	if err := e2e.Adopt(); err != nil {
		return err
	}
	t := &T{name: name, log: log}
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(t)
	}()
	select {
	case <-done:
	case s := <-interrupts:
		t.fail(fmt.Errorf("%v", s))
	}
	t.clean()
	if err := e2e.RemoveScratch(); err != nil {
		t.fail(err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return errors.Join(t.failures...)
}

// clean runs the cleanups, the last first, each on a goroutine of its own because it may fail fatally.
func (t *T) clean() {
	for {
		t.mu.Lock()
		n := len(t.cleanups)
		if n == 0 {
			t.mu.Unlock()
			return
		}
		f := t.cleanups[n-1]
		t.cleanups = t.cleanups[:n-1]
		t.mu.Unlock()
		done := make(chan struct{})
		go func() {
			defer close(done)
			f()
		}()
		<-done
	}
}

func (t *T) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures = append(t.failures, err)
}

// Name is the program's name.
func (t *T) Name() string { return t.name }

// Helper does nothing.
func (t *T) Helper() {}

// Cleanup has f called at the end, before what was registered earlier.
func (t *T) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

// Log writes a line.
func (t *T) Log(args ...any) { fmt.Fprintln(t.log, args...) }

// Logf writes a line.
func (t *T) Logf(format string, args ...any) { fmt.Fprintf(t.log, format+"\n", args...) }

// Error notes what went wrong and goes on.
func (t *T) Error(args ...any) { t.fail(errors.New(fmt.Sprint(args...))) }

// Errorf notes what went wrong and goes on.
func (t *T) Errorf(format string, args ...any) { t.fail(fmt.Errorf(format, args...)) }

// Fail notes that something went wrong.
func (t *T) Fail() { t.fail(errors.New("failed")) }

// FailNow ends the goroutine.
func (t *T) FailNow() {
	if !t.Failed() {
		t.Fail()
	}
	runtime.Goexit()
}

// Fatal notes what went wrong and ends the goroutine.
func (t *T) Fatal(args ...any) { t.Error(args...); runtime.Goexit() }

// Fatalf notes what went wrong and ends the goroutine.
func (t *T) Fatalf(format string, args ...any) { t.Errorf(format, args...); runtime.Goexit() }

// Failed says whether anything went wrong so far.
func (t *T) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.failures) > 0
}

// Skip is Fatal here: what a test may leave out, the program can't do without.
func (t *T) Skip(args ...any) { t.Fatal(args...) }

// Skipf is Fatalf here.
func (t *T) Skipf(format string, args ...any) { t.Fatalf(format, args...) }

// SkipNow is FailNow here.
func (t *T) SkipNow() { t.FailNow() }

// Skipped is never true.
func (t *T) Skipped() bool { return false }
