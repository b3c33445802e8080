package main

import (
	"runtime"
	"testing"
)

// sub is a part of the benchmark that cleans up at its own end, so that the next has the machine for itself.
type sub struct {
	testing.TB
	cleanups []func()
}

// Cleanup has f called at the end of the part.
func (s *sub) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// scoped runs f as a part. It ends the caller too if anything in it failed.
func scoped(t testing.TB, f func(t *sub)) {
	t.Helper()
	s := &sub{TB: t}
	clean := func() {
		for len(s.cleanups) > 0 {
			last := s.cleanups[len(s.cleanups)-1]
			s.cleanups = s.cleanups[:len(s.cleanups)-1]
			last()
		}
	}
	t.Cleanup(clean) // for a part that is interrupted
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(s)
	}()
	<-done
	clean()
	if t.Failed() {
		runtime.Goexit()
	}
}
