package stream

import (
	"sync"
	"sync/atomic"
	"time"
)

// Counts is what has passed a connection, in bytes. Raw is payloads as the user gave or got them, wire is frames as they were written or
// read, after compression and with headers, before TLS.
type Counts struct {
	RawSent, WireSent         int64
	RawReceived, WireReceived int64
}

// Meter counts the bytes of a connection. Its methods may be called from any goroutine.
type Meter struct {
	rawSent, wireSent, rawReceived, wireReceived atomic.Int64

	mu   sync.Mutex
	at   time.Time
	last int64
	rate float64
}

// Counts returns the present totals.
func (m *Meter) Counts() Counts {
	return Counts{m.rawSent.Load(), m.wireSent.Load(), m.rawReceived.Load(), m.wireReceived.Load()}
}

// meterSpan is the least time over which a rate is computed.
const meterSpan = 100 * time.Millisecond

// Rate returns the recent rate of raw bytes per second in both directions together, smoothed over the times it was called; 0 at first.
func (m *Meter) Rate() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, total := time.Now(), m.rawSent.Load()+m.rawReceived.Load()
	if m.at.IsZero() {
		m.at, m.last = now, total
		return 0
	}
	passed := now.Sub(m.at)
	if passed < meterSpan {
		return m.rate
	}
	current := float64(total-m.last) / passed.Seconds()
	if m.rate == 0 {
		m.rate = current
	} else {
		m.rate += 0.5 * (current - m.rate)
	}
	m.at, m.last = now, total
	return m.rate
}

func (m *Meter) sent(raw, wire int) {
	m.rawSent.Add(int64(raw))
	m.wireSent.Add(int64(wire))
}

func (m *Meter) received(raw, wire int) {
	m.rawReceived.Add(int64(raw))
	m.wireReceived.Add(int64(wire))
}
