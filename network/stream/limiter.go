package stream

import (
	"context"
	"sync"
	"time"
)

// Limiter is a token bucket that holds a flow of bytes to a rate. It may be shared by connections; its methods may be called from any
// goroutine.
type Limiter struct {
	mu   sync.Mutex
	rate float64 // bytes per second
	next time.Time
}

// limiterBurst is how much of the past a flow that paused may catch up with.
const limiterBurst = 50 * time.Millisecond

// NewLimiter returns a limiter for bytesPerSecond, at least 1.
func NewLimiter(bytesPerSecond int64) *Limiter {
	return &Limiter{rate: float64(max(bytesPerSecond, 1))}
}

// Rate is the limit in bytes per second.
func (l *Limiter) Rate() int64 { return int64(l.rate) }

// reserve books n bytes and returns how long to wait until they may pass.
func (l *Limiter) reserve(n int) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if floor := now.Add(-limiterBurst); l.next.Before(floor) {
		l.next = floor
	}
	wait := l.next.Sub(now)
	l.next = l.next.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
	return max(wait, 0)
}

// Wait returns when n bytes may pass, or earlier with the context's error.
func (l *Limiter) Wait(ctx context.Context, n int) error {
	return sleep(ctx.Done(), l.reserve(n), func() error { return context.Cause(ctx) })
}

// sleep waits for d unless stop is closed first, then it returns what cause says.
func sleep(stop <-chan struct{}, d time.Duration, cause func() error) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-stop:
		return cause()
	}
}
