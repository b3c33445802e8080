package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod/peer"
)

// zerosPort is where the sink listens.
const zerosPort = "7711"

// frameZeros is the type of the frames, one of those that belong to a connection's user.
const frameZeros = 1

// dropper drops what it gets, and says so after the last byte.
type dropper struct {
	size int64
	done chan struct{}
}

// Handle implements peer.Handler.
func (d *dropper) Handle(_ context.Context, conn *stream.Conn, _ string) error {
	for left := d.size; left > 0; {
		f, err := conn.Read()
		if err != nil {
			return err
		}
		left -= int64(len(f.Payload))
	}
	err := conn.WriteJSON(frameZeros, struct{}{})
	if _, end := conn.Read(); err == nil && !errors.Is(end, io.EOF) {
		err = end
	}
	close(d.done)
	return err
}

// sink is the other end: a process of its own that takes size bytes over a connection of a peer and drops them.
func sink(address, keys string) error {
	size, err := strconv.ParseInt(os.Getenv("SIZE"), 10, 64)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	server, err := peer.Listen(ctx, address, keys)
	if err != nil {
		return err
	}
	d := &dropper{size: size, done: make(chan struct{})}
	server.Handler, server.Log = d, slog.New(slog.NewTextHandler(os.Stderr, nil))
	go func() {
		<-d.done
		cancel()
	}()
	return server.Serve(ctx)
}

// zeros sends size zeros, in the frames, records and writes that zap's memory goes in, and prints how long that took in ns.
func zeros(address, keys, size string) error {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	client, err := peer.NewClient(address, keys)
	if err != nil {
		return err
	}
	conn, err := client.Dial(context.Background())
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetCompression(stream.CompressNever)
	buf := make([]byte, stream.MaxPayload)
	begin := time.Now()
	for left := n; left > 0; left -= int64(len(buf)) {
		buf = buf[:min(left, int64(len(buf)))]
		if err := conn.WriteData(frameZeros, buf); err != nil {
			return err
		}
	}
	if _, err := conn.Read(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(time.Since(begin))
}

// zerosBetween runs both ends in the hosts and answers with the rate in bytes a second.
func zerosBetween(t testing.TB, from, to *e2e.Host, size int64) float64 {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	address := to.Addr.String() + ":" + zerosPort
	receiver := to.NetNS.Command(ctx, self, "sink", address, to.TLS)
	receiver.Env = append(os.Environ(), fmt.Sprintf("SIZE=%d", size))
	receiver.Stderr = os.Stderr
	if err := e2e.Start(receiver); err != nil {
		t.Fatal(err)
	}
	port, _ := strconv.Atoi(zerosPort)
	e2e.WaitFor(t, 10*time.Second, "the sink to listen", func() bool { return listening(receiver.Process.Pid, port) })
	r := e2e.Run(ctx, from.NetNS.Command(ctx, self, "zeros", address, from.TLS, strconv.FormatInt(size, 10)))
	if err := e2e.Wait(receiver); r.Err == nil {
		r.Err = err
	}
	var took time.Duration
	if r.Err == nil {
		r.Err = json.Unmarshal([]byte(strings.TrimSpace(r.Stdout)), &took)
	}
	if r.Err != nil {
		t.Fatalf("send zeros from %s to %s: %v", from.Name, to.Name, r)
	}
	return float64(size) / took.Seconds()
}

// listening says whether a socket listens on the port in the network namespace of a process.
func listening(pid, port int) bool {
	data, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/net/tcp")
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) > 3 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) && f[3] == "0A" {
			return true
		}
	}
	return false
}
