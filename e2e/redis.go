package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Sample is one request and how long its answer took.
type Sample struct {
	At   time.Time
	Took time.Duration
}

// Counter is a redis client that sends INCR on one TCP connection, one after the other, and checks that every reply is one
// more than the last.
type Counter struct {
	conn  *net.TCPConn
	in    *bufio.Reader
	key   string
	think time.Duration
	stop  chan struct{}
	done  chan struct{}

	closed bool
	resent uint32 // when it was closed

	mu      sync.Mutex
	value   int64
	samples []Sample
	err     error
}

// CounterReport is what a Counter has seen.
type CounterReport struct {
	Count       int64 // replies, which is the last of them too
	Worst       Sample
	Samples     []Sample
	Retransmits uint32 // segments that the client had to send again
	Err         error  // what ended the client early
}

// replyTimeout bounds the wait for one reply; what a move may cost at the worst is far below.
const replyTimeout = 2 * time.Minute

// NewCounter connects to a redis and counts with key until Stop. think is how long it waits after each reply.
func NewCounter(t testing.TB, from NetNS, address, key string, think time.Duration) *Counter {
	t.Helper()
	conn, err := from.Dial(address, 20*time.Second)
	if err != nil {
		t.Fatalf("connect to redis: %v", err)
	}
	conn.SetNoDelay(true)
	c := &Counter{conn: conn, in: bufio.NewReader(conn), key: key, think: think, stop: make(chan struct{}), done: make(chan struct{})}
	if err := c.step(); err != nil { // the pod answers before the test goes on
		t.Fatalf("ask redis: %v", err)
	}
	t.Cleanup(func() { c.Stop() })
	go c.run()
	return c
}

func (c *Counter) run() {
	defer close(c.done)
	for {
		select {
		case <-c.stop:
			return
		case <-time.After(c.think):
		}
		if err := c.step(); err != nil {
			c.mu.Lock()
			c.err = err
			c.mu.Unlock()
			return
		}
	}
}

// step is one INCR.
func (c *Counter) step() error {
	c.conn.SetDeadline(time.Now().Add(replyTimeout))
	begin := time.Now()
	if _, err := c.conn.Write(command("INCR", []byte(c.key))); err != nil {
		return fmt.Errorf("after reply %d: %w", c.value, err)
	}
	line, err := c.in.ReadString('\n')
	took := time.Since(begin)
	if err != nil {
		return fmt.Errorf("after reply %d: %w", c.value, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.samples = append(c.samples, Sample{At: begin, Took: took})
	if want := ":" + strconv.FormatInt(c.value+1, 10) + "\r\n"; line != want {
		return fmt.Errorf("reply %q, expected %q", line, want)
	}
	c.value++
	return nil
}

// Value is the last reply.
func (c *Counter) Value() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.value
}

// WantProgress waits for more replies on the same connection, and fails the test when there are none.
func (c *Counter) WantProgress(t testing.TB) {
	t.Helper()
	first := c.Value()
	for deadline := time.Now().Add(replyTimeout); c.Value() < first+3; time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		err := c.err
		c.mu.Unlock()
		if err != nil {
			t.Fatalf("redis client: %v", err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("redis client: no reply after %d", first)
		}
	}
}

// Stop ends the client, closes its connection and answers with what it has seen. It can be called again.
func (c *Counter) Stop() CounterReport {
	select {
	case <-c.stop:
	default:
		close(c.stop)
		select { // a reply that is on its way is waited for, but not for ever
		case <-c.done:
		case <-time.After(20 * time.Second):
			c.conn.SetDeadline(time.Now())
			<-c.done
		}
	}
	<-c.done
	report := CounterReport{Count: c.value, Samples: c.samples, Err: c.err}
	for _, s := range c.samples {
		if s.Took > report.Worst.Took {
			report.Worst = s
		}
	}
	if !c.closed {
		c.closed = true
		c.resent, _ = Retransmits(c.conn)
		c.conn.Close()
	}
	report.Retransmits = c.resent
	return report
}

// FillRedis stores size bytes that don't compress, a MiB for each key.
func FillRedis(t testing.TB, from NetNS, address string, size int) {
	t.Helper()
	conn, err := from.Dial(address, 20*time.Second)
	if err != nil {
		t.Fatalf("connect to redis: %v", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Minute))
	in := bufio.NewReader(conn)
	noise := rand.NewChaCha8([32]byte{1})
	value := make([]byte, 1<<20)
	for i := range (size + len(value) - 1) / len(value) {
		noise.Read(value)
		if _, err := conn.Write(command("SET", fmt.Appendf(nil, "fill:%06d", i), value)); err != nil {
			t.Fatalf("fill redis: %v", err)
		}
		if line, err := in.ReadString('\n'); err != nil || line != "+OK\r\n" {
			t.Fatalf("fill redis: %q, %v", line, err)
		}
	}
}

// command is a request in redis's protocol.
func command(name string, args ...[]byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n$%d\r\n%s\r\n", len(args)+1, len(name), name)
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b.Bytes()
}
